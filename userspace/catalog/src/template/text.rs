//! How a value is printed: as the catalog's first implementation printed it from the JVM's types.

use serde_json::{Number, Value};

/// A value in text; nothing for null. A string is printed as the inside of a JSON string, so that it fits between quotes; a
/// string directly inside a list keeps quotes of its own.
pub fn print(value: &Value, out: &mut String) {
    match value {
        Value::Null => {}
        Value::String(string) => escape(string, out),
        other => inner(other, out),
    }
}

/// A value inside a list or an object.
fn inner(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Number(number) => print_number(number, out),
        Value::String(string) => escape(string, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                if let Value::String(string) = item {
                    out.push('"');
                    escape(string, out);
                    out.push('"');
                } else {
                    inner(item, out);
                }
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (index, (key, field)) in fields.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                out.push_str(key);
                out.push('=');
                inner(field, out);
            }
            out.push('}');
        }
    }
}

fn escape(string: &str, out: &mut String) {
    let quoted = Value::from(string).to_string();
    out.push_str(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default());
}

fn print_number(number: &Number, out: &mut String) {
    match number.as_f64() {
        _ if !number.is_f64() => out.push_str(&number.to_string()),
        Some(double) if double.fract() == 0.0 => {
            print_integral(double, out);
        }
        Some(double) => print_double(double, out),
        None => out.push_str(&number.to_string()),
    }
}

/// An integral number prints as an integer, in full, with the digits that it was written with: `1.5e20` is `15` and nineteen zeros.
fn print_integral(double: f64, out: &mut String) {
    // Adding zero makes the negative one positive.
    let text = format!("{:e}", double + 0.0);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let zeros = exponent.parse::<usize>().unwrap_or(0).saturating_sub(fraction.len());
    out.extend([whole, fraction]);
    out.extend(std::iter::repeat_n('0', zeros));
}

/// Java's `Double.toString`: plain between a thousandth and ten million, otherwise one digit, a fraction and an exponent.
fn print_double(double: f64, out: &mut String) {
    if (1e-3..1e7).contains(&double.abs()) {
        out.push_str(&format!("{double:?}"));
        return;
    }
    let text = format!("{double:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    out.push_str(mantissa);
    out.push_str(if mantissa.contains('.') { "E" } else { ".0E" });
    out.push_str(exponent);
}
