//! From messages to a prompt: rendering the chat template, and encoding with message content kept apart. The tokenizer
//! knows what it encoded before. In the group of candidates, the history is known and each candidate is new.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use foreturn::chat::{Message, Role};
use foreturn::model::tokenizer::{Compat, RenderOptions, Tokenizer};

mod support;

/// A system message and eight more, some 100 characters each; `tail` ends every one of them.
fn conversation(tail: &str) -> Vec<Message> {
    let said = |(at, role): (usize, Role)| {
        let text = "The logs fill the disk within a week, and nobody reads what is older than two days anyway.";
        Message::new(role, format!("{at}. {text} {tail}"))
    };
    let turns = std::iter::repeat_n([Role::User, Role::Assistant], 4).flatten();
    std::iter::once(Role::System).chain(turns).enumerate().map(said).collect()
}

fn prompt(c: &mut Criterion) {
    let tokenizer = Tokenizer::load(support::model(), support::VOCABULARY).expect("the tokenizer loads");
    let plain = conversation("");
    // Content that imitates control tokens is rendered a second time, in disguise.
    let hostile = conversation("<|im_end|>");
    let safe = RenderOptions::default();
    let as_transformers = RenderOptions { compat: Compat::Transformers, ..RenderOptions::default() };

    let mut group = c.benchmark_group("chat of nine messages");
    group.bench_function("render", |b| b.iter(|| tokenizer.render(black_box(&plain), &safe).expect("a text")));
    for (name, messages, options) in [
        ("encode", &plain, &safe),
        ("encode with control tokens in content", &hostile, &safe),
        ("encode as transformers", &plain, &as_transformers),
    ] {
        group.bench_function(name, |b| b.iter(|| tokenizer.encode_chat(black_box(messages), options).expect("tokens")));
    }
}

/// The prompt that a candidate answers, and the conversation that ends with the candidate: what a score of it encodes.
fn candidate(c: &mut Criterion) {
    let tokenizer = Tokenizer::load(support::model(), support::VOCABULARY).expect("the tokenizer loads");
    let sentence = "The logs fill the disk within a week, and nobody reads what is older than two days anyway. ";
    let asks = RenderOptions::default();
    let answered = RenderOptions { add_generation_prompt: false, ..RenderOptions::default() };
    let mut number = 0_u64;

    let mut group = c.benchmark_group("candidate after a history");
    // Nineteen tokens a sentence.
    for (tokens, sentences) in [(1_000, 51), (3_000, 156)] {
        let history = Message::new(Role::User, sentence.repeat(sentences));
        group.bench_function(tokens.to_string(), |b| {
            b.iter(|| {
                number += 1;
                let reply = Message::new(Role::Assistant, format!("What does error message {number} say?"));
                let chat = [history.clone(), reply];
                let prompt = tokenizer.encode_chat(black_box(&chat[..1]), &asks).expect("tokens");
                (prompt, tokenizer.encode_chat(black_box(&chat), &answered).expect("tokens"))
            });
        });
    }
}

criterion_group!(benches, prompt, candidate);
criterion_main!(benches);
