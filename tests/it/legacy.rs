//! The REST of the old system, asked by the plain curl that old scripts are made of.

mod agents;
mod curl;
mod entitys;
mod others;
mod pages;
mod requests;
mod routes;
mod walk;
