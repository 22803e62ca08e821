//! The words of `--hostile-device`.

use super::lie::Lie;
use super::{ParseError, bad};
use shared_abi::virtio::DeviceType;
use std::str::FromStr;

/// The types of devices that can be hostile.
pub const TYPES: [DeviceType; 5] =
    [DeviceType::BLOCK, DeviceType::NET, DeviceType::BALLOON, DeviceType::CONSOLE, DeviceType::RNG];
/// One lie in so many chances, unless the user says otherwise.
const RATE: u32 = 32;

/// Which devices lie, how, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Decides about every lie.
    pub seed: u64,
    /// Types of devices that lie.
    pub devices: Vec<DeviceType>,
    /// The kinds of lies; `None` leaves the choice to the seed.
    pub lies: Option<Vec<Lie>>,
    /// One lie in so many chances.
    pub rate: u32,
}

impl Options {
    /// All devices, with lies as the seed says.
    pub fn new(seed: u64) -> Self {
        Self { seed, devices: TYPES.to_vec(), lies: None, rate: RATE }
    }
}

impl FromStr for Options {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut words = text.split(',');
        let seed = words.next().unwrap_or_default();
        let number = match seed.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => seed.parse(),
        };
        let Ok(seed) = number else { return bad("the seed is a number of 64 bits, such as 7 or 0x2a") };
        let (mut options, mut devices, mut lies) = (Self::new(seed), Vec::new(), Vec::new());
        for word in words {
            match word.split_once('=') {
                Some(("device", names)) => {
                    for name in names.split('+') {
                        let known = TYPES.into_iter().find(|device_type| device_type.name() == name);
                        let Some(device_type) = known else {
                            return bad(format!(
                                "\"{name}\" is no device: there are {}",
                                join(TYPES.map(DeviceType::name))
                            ));
                        };
                        devices.push(device_type);
                    }
                }
                Some(("lies", names)) => {
                    for name in names.split('+') {
                        let Some(lie) = Lie::from_name(name) else {
                            return bad(format!("\"{name}\" is no lie: there are {}", join(Lie::ALL.map(Lie::name))));
                        };
                        lies.push(lie);
                    }
                }
                Some(("rate", number)) => match number.parse() {
                    Ok(rate @ 1..) => options.rate = rate,
                    _ => return bad("rate=N takes a number from 1: one lie in N chances"),
                },
                _ => {
                    return bad(format!("\"{word}\" is no option of hostile devices: there are device=, lies=, rate="));
                }
            }
        }
        if !devices.is_empty() {
            options.devices = devices;
        }
        options.lies = (!lies.is_empty()).then_some(lies);
        Ok(options)
    }
}

fn join<const N: usize>(names: [&str; N]) -> String {
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_decimal_or_hexadecimal_and_options_follow() {
        assert_eq!("7".parse(), Ok(Options::new(7)));
        assert_eq!("0xffffffffffffffff".parse(), Ok(Options::new(u64::MAX)));
        let options: Options = "0x2a,device=net+block,device=rng,lies=used-id+reset,rate=1".parse().unwrap();
        assert_eq!(options.devices, [DeviceType::NET, DeviceType::BLOCK, DeviceType::RNG]);
        assert_eq!((options.seed, options.rate, options.lies), (42, 1, Some(vec![Lie::UsedId, Lie::Reset])));
        for lie in Lie::ALL {
            assert_eq!(Lie::from_name(lie.name()), Some(lie));
        }
    }

    #[test]
    fn wrong_words_are_refused_with_the_right_ones() {
        let why = |text: &str| text.parse::<Options>().unwrap_err().to_string();
        assert!(why("1,device=disk").contains("block, net, balloon, console, rng"));
        assert!(why("1,lies=all").contains("used-id, used-length"));
        assert!(why("1,rate=0").contains("from 1"));
        assert!(why("1,seed=2").contains("device="));
        for seed in ["", "x", "-1", "0x", "18446744073709551616", "device=net"] {
            assert!(why(seed).contains("64 bits"), "{seed}");
        }
    }
}
