//! The parameters of a llama3 scaling, from what it does.
//!
//! A GGUF file has the divisor of each rotary frequency, not the parameters. The divisor of a pair of wavelength `L` is 1 below
//! `o / high`, `factor` above `o / low`, and between them its inverse is linear in `1 / L`. So only `factor` and the two borders can be
//! seen. Of the parameters that give them those of real models are tried first; whatever is found is checked against every divisor.

use std::f64::consts::TAU;

use crate::config::Llama3RopeScalingParams;

/// Largest relative error of a divisor, and the one at which the search ends.
const TOLERANCE: f64 = 1e-4;
const GOOD: f64 = 1e-5;

/// Divisors this close to 1 or to the largest are taken to be it.
const SAME: f64 = 1e-6;

/// The context that Llama 4 was first trained for.
const USUAL: f64 = 8192.0;

/// What can be seen of a scaling: wavelengths below `short` stay, those above `long` are divided in full.
#[derive(Debug, Clone, Copy)]
struct Borders {
    factor: f64,
    short: f64,
    long: f64,
}

/// The scaling with these divisors; `None` if they are all 1.
///
/// # Errors
/// When no llama3 scaling has them. The message is a rule that they break.
pub(super) fn recover(
    divisors: &[f32],
    theta: f64,
    head_dim: usize,
) -> Result<Option<Llama3RopeScalingParams>, String> {
    let divisors: Vec<f64> = divisors.iter().map(|&divisor| divisor.into()).collect();
    if let Some(wrong) = divisors.iter().find(|divisor| !divisor.is_finite() || **divisor <= 0.0) {
        return Err(format!("it must hold finite divisors above 0, not {wrong}"));
    }
    let wavelengths: Vec<f64> =
        (0..divisors.len()).map(|pair| TAU * theta.powf(2.0 * pair as f64 / head_dim as f64)).collect();
    if divisors.iter().all(|&divisor| same(divisor, 1.0)) {
        return Ok(None);
    }
    let best = borders(&divisors, &wavelengths)
        .into_iter()
        .flat_map(parameters)
        .map(|scaling| (worst(&scaling, &divisors, &wavelengths), scaling))
        .reduce(|best, next| if best.0 > GOOD && next.0 < best.0 { next } else { best });
    match best {
        Some((error, scaling)) if error <= TOLERANCE => Ok(Some(scaling)),
        _ => Err("it must hold the divisors of a llama3 scaling, and no such scaling has these".to_string()),
    }
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= SAME * b
}

/// The largest relative error.
fn worst(scaling: &Llama3RopeScalingParams, divisors: &[f64], wavelengths: &[f64]) -> f64 {
    let errors = divisors.iter().zip(wavelengths).map(|(&found, &wavelength)| {
        let error = (divisor(scaling, wavelength) / found - 1.0).abs();
        if error.is_nan() { f64::INFINITY } else { error }
    });
    errors.fold(0.0, f64::max)
}

/// The divisor of a wavelength, as the model has it.
fn divisor(scaling: &Llama3RopeScalingParams, wavelength: f64) -> f64 {
    let Llama3RopeScalingParams { factor, low_freq_factor: low, high_freq_factor: high, .. } = *scaling;
    let original = scaling.orig_max_position as f64;
    if wavelength < original / high {
        1.0
    } else if wavelength > original / low || low == high {
        factor
    } else {
        let blend = (original / wavelength - low) / (high - low);
        1.0 / ((1.0 - blend) / factor + blend)
    }
}

/// Borders that may give these divisors, the likelier first.
fn borders(divisors: &[f64], wavelengths: &[f64]) -> Vec<Borders> {
    let count = divisors.len();
    let Some(&last) = divisors.last() else { return Vec::new() };
    let kept = divisors.iter().take_while(|&&divisor| same(divisor, 1.0)).count();
    let full = count - divisors.iter().rev().take_while(|&&divisor| same(divisor, last)).count();
    let below = if kept > 0 { wavelengths[kept - 1] } else { 0.0 };

    let mut found = Vec::new();
    // The last divisor is the factor, so the longest wavelengths are beyond the band between the borders.
    if kept >= full {
        // Nothing is in it.
        let border = |at| Borders { factor: last, short: at, long: at };
        found.extend(between(below, wavelengths[full]).map(border));
    } else if full - kept == 1 {
        // One wavelength is: any upper border will do, and the lower one follows from it.
        let (wavelength, inside) = (wavelengths[kept], divisors[kept]);
        let blend = (1.0 / inside - 1.0 / last) / (1.0 - 1.0 / last);
        found.extend(between(wavelength, wavelengths[full]).map(|long| {
            let short = 1.0 / (1.0 / long + (1.0 / wavelength - 1.0 / long) / blend);
            Borders { factor: last, short, long }
        }));
    } else if let Some(line) = Line::through(&divisors[kept..full], &wavelengths[kept..full]) {
        found.push(line.borders(last));
    }
    // It is not, and the band goes on: then any larger factor will do, with the upper border that follows from it.
    if let Some(line) = Line::through(&divisors[kept..], &wavelengths[kept..]) {
        let round = [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0].into_iter().filter(|&factor| factor > last);
        let mut open: Vec<Borders> = round.chain([last]).map(|factor| line.borders(factor)).collect();
        // Those whose upper border is a round number first: they are most likely the original ones.
        open.sort_by_key(|borders| same_power(borders.long).is_none());
        found.extend(open);
    }
    found
}

/// Places strictly between two wavelengths: the usual one, powers of two, a whole number, and others.
fn between(below: f64, above: f64) -> impl Iterator<Item = f64> {
    let middle = if below > 0.0 { (below * above).sqrt() } else { above / 2.0 };
    let powers = (0..31).map(|power| f64::from(1_u32 << power));
    let steps = [0.5, 0.2, 0.05, 0.01, 0.001].map(|part| below + part * (above - below));
    [USUAL].into_iter().chain(powers).chain([middle.round()]).chain(steps).filter(move |&at| below < at && at < above)
}

/// The inverse of the divisor as a linear function of the inverse of the wavelength.
struct Line {
    start: f64,
    slope: f64,
}

impl Line {
    /// By least squares; `None` for fewer than two points.
    fn through(divisors: &[f64], wavelengths: &[f64]) -> Option<Self> {
        if divisors.len() < 2 {
            return None;
        }
        let points =
            || wavelengths.iter().zip(divisors).map(|(&wavelength, &divisor)| (1.0 / wavelength, 1.0 / divisor));
        let count = divisors.len() as f64;
        let (x_mean, y_mean) = points().fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x / count, sum.1 + y / count));
        let (xx, xy) = points()
            .fold((0.0, 0.0), |sum, (x, y)| (sum.0 + (x - x_mean) * (x - x_mean), sum.1 + (x - x_mean) * (y - y_mean)));
        let slope = xy / xx;
        Some(Self { start: y_mean - slope * x_mean, slope })
    }

    /// Where the line has the inverse of 1 and of `factor`.
    fn borders(&self, factor: f64) -> Borders {
        let at = |divisor: f64| self.slope / (1.0 / divisor - self.start);
        Borders { factor, short: at(1.0), long: at(factor) }
    }
}

/// The power of two that a number is, up to rounding.
fn same_power(number: f64) -> Option<f64> {
    let power = number.log2().round().exp2();
    (power.is_finite() && close(number, power)).then_some(power)
}

fn close(number: f64, round: f64) -> bool {
    (number - round).abs() <= 1e-3 * round
}

/// Parameters with these borders, the rounder first. Only `o / low` and `o / high` matter, so `low` is 1 unless the border is no whole
/// number.
fn parameters(borders: Borders) -> Vec<Llama3RopeScalingParams> {
    let Borders { factor, short, long } = borders;
    let rounded = |number: f64| Some(number.round()).filter(|&round| round > 0.0 && close(number, round));
    let either = |round: Option<f64>, number: f64| round.into_iter().chain([number]);
    let mut found = Vec::new();
    let originals = same_power(long).into_iter().chain(rounded(long));
    let scales = originals.map(|original| (original, 1.0)).chain([(USUAL, USUAL / long)]);
    for (original, low) in scales {
        let high = if short == long { low } else { original / short };
        for factor in either(rounded(factor), factor) {
            for high in either(rounded(high).filter(|_| short != long), high) {
                let whole = original as usize;
                let valid = (1..=i32::MAX as usize).contains(&whole) && low > 0.0 && high >= low && factor >= 1.0;
                if valid && [low, high, factor].iter().all(|number| number.is_finite()) {
                    found.push(Llama3RopeScalingParams {
                        factor,
                        low_freq_factor: low,
                        high_freq_factor: high,
                        orig_max_position: whole,
                    });
                }
            }
        }
    }
    found
}
