//! Values that TOML has no type for: sizes, limits, octal modes, percents, signals.

use std::{fmt, time::Duration};

use bytesize::ByteSize;
use rustix::process::Signal;
use serde::{Deserialize, Deserializer, de};

/// A size in bytes: a number, or a text with its unit.
#[derive(Clone, Copy)]
pub(super) struct Size(pub(super) u64);

impl Size {
    pub(super) const fn mebibytes<const N: u64>() -> Self {
        Self(N << 20)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"10MiB\", \"2GiB\" or 4096")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                size(text)
                    .map(Size)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
                match u64::try_from(number) {
                    Ok(bytes @ 1..) => Ok(Size(bytes)),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn size(text: &str) -> Option<u64> {
    // What the library takes beside: no number at all, and more than fits.
    let begins = text.starts_with(|c: char| c.is_ascii_digit());
    let bytes = text.parse::<ByteSize>().ok()?.as_u64();
    (begins && bytes > 0 && bytes < i64::MAX as u64).then_some(bytes)
}

/// A resource limit: a number, a size, a time for `cpu`, or `"unlimited"`.
pub(super) struct LimitValue(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for LimitValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = LimitValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a size such as \"4GiB\", or \"unlimited\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LimitValue, E> {
                if text == "unlimited" {
                    return Ok(LimitValue(None));
                }
                size(text)
                    .map(|bytes| LimitValue(Some(bytes)))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<LimitValue, E> {
                match u64::try_from(number) {
                    Ok(number) => Ok(LimitValue(Some(number))),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Permission bits as people write them: `"640"`, `"027"`.
pub(super) struct Octal(pub(super) u32);

impl<'de> Deserialize<'de> for Octal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Octal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an octal number from \"0\" to \"777\", such as \"027\" or \"640\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Octal, E> {
                let digits =
                    (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
                match u32::from_str_radix(text, 8) {
                    Ok(bits @ 0..=0o777) if digits => Ok(Octal(bits)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// A part of one processor, in thousandths: `"150%"` is 1500.
pub(super) struct Percent(pub(super) u64);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Percent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("whole percents of one processor, such as \"50%\" or \"150%\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Percent, E> {
                let number =
                    text.strip_suffix('%').filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
                match number.map(str::parse::<u32>) {
                    Some(Ok(percent @ 1..=100_000)) => Ok(Percent(u64::from(percent) * 10)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// How long a log file is written to: up to ten years.
pub(super) struct Age(pub(super) Duration);

impl Age {
    const MAX: Duration = Duration::from_secs(3650 * 24 * 3600);

    pub(super) fn days<const N: u64>() -> Self {
        Self(Duration::from_secs(N * 24 * 3600))
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Age;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration from \"1s\" to \"3650d\", such as \"12h\" or \"7d\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Age, E> {
                match humantime::parse_duration(text) {
                    Ok(age) if age >= Duration::from_secs(1) && age <= Age::MAX => Ok(Age(age)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// A signal by its name, `SIGTERM` or `TERM`.
pub(super) struct SignalName(pub(super) Signal);

/// Those that ask a program for something: the others stop it, continue it, or tell of a fault.
const SIGNALS: [(&str, Signal); 10] = [
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("HUP", Signal::HUP),
    ("QUIT", Signal::QUIT),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("ALRM", Signal::ALARM),
    ("ABRT", Signal::ABORT),
    ("WINCH", Signal::WINCH),
    ("KILL", Signal::KILL),
];

impl<'de> Deserialize<'de> for SignalName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = SignalName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a signal:")?;
                SIGNALS.iter().try_for_each(|(name, _)| write!(f, " SIG{name}"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SignalName, E> {
                let short = text.strip_prefix("SIG").unwrap_or(text);
                let found = SIGNALS.iter().find(|(name, _)| *name == short);
                found
                    .map(|&(_, signal)| SignalName(signal))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_people_write_them() {
        let good = [("10MiB", 10 << 20), ("4 GiB", 4 << 30), ("1kB", 1000), ("4096", 4096)];
        for (text, bytes) in good {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "0", "MiB", "-1", "-1MiB", "1 parsec", "99999999EiB", "inf", "NaN", "1e9"]
        {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
