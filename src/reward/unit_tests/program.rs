//! The program in a message.

/// The contents of the last fenced block of Python in `text`, otherwise of the last block without a language, otherwise
/// all of it. A block that isn't closed goes on to the end.
pub fn program_text(text: &str) -> &str {
    let (mut python, mut plain) = (None, None);
    let mut open: Option<(&str, &str, usize)> = None;
    let mut at = 0;
    let mut note = |language: &str, block| match language {
        "python" | "python3" | "py" => python = Some(block),
        "" => plain = Some(block),
        _ => {}
    };
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let trimmed = line.trim();
        let ticks = &trimmed[..trimmed.len() - trimmed.trim_start_matches('`').len()];
        match open {
            None if ticks.len() >= 3 => open = Some((ticks, trimmed[ticks.len()..].trim(), at)),
            Some((fence, language, from)) if trimmed == ticks && ticks.len() >= fence.len() => {
                note(language, &text[from..start]);
                open = None;
            }
            _ => {}
        }
    }
    if let Some((_, language, from)) = open {
        note(language, &text[from..]);
    }
    python.or(plain).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::program_text;

    #[test]
    fn the_last_block_of_python_counts() {
        let text = "First:\n```python\na = 1\n```\nBetter:\n```py\na = 2\n```\nRun it:\n```sh\npython a.py\n```\n";
        assert_eq!(program_text(text), "a = 2\n");
        assert_eq!(program_text("```\nx\n```\n```json\n{}\n```"), "x\n");
        assert_eq!(program_text("a = 3\n"), "a = 3\n");
        assert_eq!(program_text("````python\ns = '''\n```\n'''\n````"), "s = '''\n```\n'''\n");
        assert_eq!(program_text("Cut:\n```python\na = 4"), "a = 4");
        assert_eq!(program_text(""), "");
    }
}
