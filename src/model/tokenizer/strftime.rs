//! Python's `strftime` on Linux in the C locale: every directive of glibc, with its flags, widths and modifiers.
//!
//! What glibc doesn't know stays as it stands, as there. `%z` and `%Z` of a time without a zone are nothing, and `%f` is
//! zero, because that is what Python makes of them before glibc sees the format.

use super::date::DateTime;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Python's first buffer. It takes larger ones up to 256 times the format, and gives nothing where these are too small.
const BUFFER: usize = 1024;

/// Most bytes of a date. Formats come with templates, which are not trusted.
const MOST: usize = 1 << 20;

/// A directive between `%` and its letter.
#[derive(Clone, Copy, Default)]
struct Form {
    /// `_`, `-` or `0`: what it is padded with.
    padding: Option<char>,
    upper: bool,
    /// `#`: the other case.
    other_case: bool,
    width: usize,
}

/// What a directive stands for.
enum Piece {
    /// A number of so many digits at least, and what it is padded with where no flag says so.
    Number(u64, usize, char),
    Text(String),
    /// A text that stays in lower case.
    Lower(String),
}

/// `date.strftime(format)`; `None` where it would be longer than [`MOST`] bytes.
pub(super) fn strftime(date: &DateTime, format: &str) -> Option<String> {
    let mut most = BUFFER;
    while most < format.len().saturating_mul(256) {
        most *= 2;
    }
    let mut out = String::with_capacity(format.len() + 16);
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let (written, length) = directive(date, rest, most.min(MOST));
        out.push_str(&written);
        rest = &rest[length..];
        if out.len() >= most {
            return Some(String::new());
        }
        if out.len() > MOST {
            return None;
        }
    }
    Some(out + rest)
}

/// What the directive at the beginning of `text` becomes, and its length.
fn directive(date: &DateTime, text: &str, most: usize) -> (String, usize) {
    for (own, becomes) in [("%z", ""), ("%Z", ""), ("%f", "000000")] {
        if text.starts_with(own) {
            return (becomes.to_owned(), own.len());
        }
    }
    let mut form = Form::default();
    let mut at = 1;
    while let Some(flag @ ('_' | '-' | '0' | '^' | '#')) = text[at..].chars().next() {
        match flag {
            '^' => form.upper = true,
            '#' => form.other_case = true,
            padding => form.padding = Some(padding),
        }
        at += 1;
    }
    while let Some(digit) = text[at..].chars().next().and_then(|c| c.to_digit(10)) {
        form.width = (form.width * 10 + digit as usize).min(most);
        at += 1;
    }
    let modifier = text[at..].chars().next().filter(|c| matches!(c, 'E' | 'O'));
    at += modifier.map_or(0, char::len_utf8);
    let Some(letter) = text[at..].chars().next() else {
        return (form.write(Piece::Text(text.to_owned())), text.len());
    };
    let length = at + letter.len_utf8();
    let takes = match modifier {
        None => true,
        Some('E') => "cCxXyYpPnRTrstu".contains(letter),
        Some(_) => "bhBCdeHIjklmMSUVwWygGpPnRTrstu".contains(letter),
    };
    let piece = piece(date, letter, form).filter(|_| takes);
    (form.write(piece.unwrap_or_else(|| Piece::Text(text[..length].to_owned()))), length)
}

impl Form {
    fn write(self, piece: Piece) -> String {
        let stays = matches!(piece, Piece::Lower(_));
        let mut text = match piece {
            Piece::Text(text) | Piece::Lower(text) => text,
            Piece::Number(value, digits, usual) => {
                let digits = digits.max(self.width);
                match self.padding.unwrap_or(usual) {
                    '-' => value.to_string(),
                    '_' => format!("{value:digits$}"),
                    _ => format!("{value:0digits$}"),
                }
            }
        };
        if self.upper && !stays {
            text = text.to_uppercase();
        }
        let missing = self.width.saturating_sub(text.len());
        let pad = if self.padding == Some('0') { "0" } else { " " };
        pad.repeat(missing) + &text
    }
}

fn piece(date: &DateTime, letter: char, form: Form) -> Option<Piece> {
    let number = |value: u64, digits: usize| Some(Piece::Number(value, digits, '0'));
    let spaced = |value: u64| Some(Piece::Number(value, 2, '_'));
    let text = |text: &str| Some(Piece::Text(text.to_owned()));
    let name = |name: &str| text(&if form.other_case { name.to_uppercase() } else { name.to_owned() });
    let parts = |format: &str| Some(Piece::Text(strftime(date, format)?));
    let hour12 = u64::from((date.hour + 11) % 12 + 1);
    let half = if date.hour < 12 { "AM" } else { "PM" };
    let month = MONTHS[usize::from(date.month) - 1];
    let weekday = WEEKDAYS[date.weekday()];
    let (week_day, year_day) = (date.weekday() as u64, u64::from(date.day_of_year()) - 1);
    let (iso_year, iso_week) = iso_week(date);
    match letter {
        'd' => number(date.day.into(), 2),
        'e' => spaced(date.day.into()),
        'm' => number(date.month.into(), 2),
        'y' => number(u64::from(date.year) % 100, 2),
        'Y' => number(date.year.into(), 1),
        'C' => number(u64::from(date.year) / 100, 2),
        'G' => number(iso_year, 1),
        'g' => number(iso_year % 100, 2),
        'V' => number(iso_week, 2),
        'U' => number((year_day + 7 - week_day) / 7, 2),
        'W' => number((year_day + 7 - (week_day + 6) % 7) / 7, 2),
        'H' => number(date.hour.into(), 2),
        'I' => number(hour12, 2),
        'k' => spaced(date.hour.into()),
        'l' => spaced(hour12),
        'M' => number(date.minute.into(), 2),
        'S' => number(date.second.into(), 2),
        's' => text(&date.unix().to_string()),
        'j' => number(year_day + 1, 3),
        'w' => number(week_day, 1),
        'u' => number((week_day + 6) % 7 + 1, 1),
        'b' | 'h' => name(&month[..3]),
        'B' => name(month),
        'a' => name(&weekday[..3]),
        'A' => name(weekday),
        'p' if !form.other_case => text(half),
        'p' | 'P' => Some(Piece::Lower(half.to_lowercase())),
        'F' => parts("%Y-%m-%d"),
        'T' | 'X' => parts("%H:%M:%S"),
        'R' => parts("%H:%M"),
        'r' => parts("%I:%M:%S %p"),
        'D' | 'x' => parts("%m/%d/%y"),
        'c' => parts("%a %b %e %H:%M:%S %Y"),
        'n' => text("\n"),
        't' => text("\t"),
        '%' => text("%"),
        _ => None,
    }
}

/// Year and week of ISO 8601: weeks begin on Mondays and belong to the year that has their Thursday.
fn iso_week(date: &DateTime) -> (u64, u64) {
    let (year, day) = (u64::from(date.year), u64::from(date.day_of_year()));
    let week_day = (date.weekday() as u64 + 6) % 7 + 1;
    let week = (day + 10 - week_day) / 7;
    let weeks_of = |year: u64| {
        let last_day = |year: u64| (year + year / 4 - year / 100 + year / 400) % 7;
        52 + u64::from(last_day(year) == 4 || last_day(year - 1) == 3)
    };
    match week {
        0 => (year - 1, weeks_of(year - 1)),
        53 if weeks_of(year) == 52 => (year + 1, 1),
        week => (year, week),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Fixture {
        formats: Vec<String>,
        dates: Vec<(String, Vec<String>)>,
    }

    /// `tests/reference/make_strftime_fixtures.py`
    #[test]
    fn every_directive_is_pythons() {
        let fixture = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/strftime.json"));
        let Fixture { formats, dates } = serde_json::from_str(fixture).unwrap();
        assert!(formats.len() > 150 && dates.len() > 15);
        let mut wrong = Vec::new();
        for (date, expected) in &dates {
            let parsed: DateTime = date.parse().unwrap();
            for (format, expected) in formats.iter().zip(expected) {
                let found = strftime(&parsed, format).unwrap();
                if found != *expected {
                    wrong.push(format!("{date}: {format:?} gives {found:?}, not {expected:?}"));
                }
            }
        }
        let long = "%9999d".repeat(10_000);
        assert_eq!(strftime(&"2024-07-26".parse().unwrap(), &long), None);
        assert!(wrong.is_empty(), "{} differ: {:#?}", wrong.len(), &wrong[..wrong.len().min(40)]);
    }
}
