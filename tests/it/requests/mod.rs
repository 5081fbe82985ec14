//! Requests over a whole system: a manager, a bridge and emulated agents as processes of their own,
//! over a real RabbitMQ.

mod stage;
