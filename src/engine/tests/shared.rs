//! Weights that engines of one model share. Each engine goes on with what it has, whatever becomes of the others.

use std::path::Path;

use super::*;
use crate::export::Quantize;
use crate::model::shared::Slot;

/// An engine with the model at `path` in two roles.
fn two_roles(path: &Path) -> Engine {
    let mut config = Config::default();
    for name in ["one", "two"] {
        config.models.insert(name.into(), ModelConfig::local(path));
    }
    engine_with::<0>(config, 600, [])
}

fn logprobs_of(engine: &Engine) -> Vec<f32> {
    engine.model("one").expect("a model").logprobs((5..30).collect::<Vec<u32>>()).expect("scored").logprobs
}

/// How many use the packed weights of a folder: sessions, and whoever asks.
fn users(folder: &ModelFolder) -> usize {
    Arc::strong_count(&folder.packed(|| Err(Error::internal("nobody has them"))).expect("somebody has them")) - 1
}

/// Scales the floats in a folder's file of weights, which stays the file that it is.
fn scale(path: &Path, by: f32) {
    let file = path.join("model.safetensors");
    let mut bytes = std::fs::read(&file).expect("weights");
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("a length")) as usize;
    for number in bytes[start..].as_chunks_mut::<4>().0 {
        *number = (by * f32::from_le_bytes(*number)).to_le_bytes();
    }
    std::fs::write(&file, bytes).expect("written");
}

#[test]
fn engines_and_roles_of_one_model_have_one_copy_of_its_weights() {
    let (_files, path) = testing::exported("llama", Quantize::None);
    let first = two_roles(&path);
    let folder = first.model("one").expect("a model").folder().expect("a folder");
    assert_eq!(users(&folder), 2, "two roles");
    let second = two_roles(&path);
    assert!(Arc::ptr_eq(&folder, &second.model("two").expect("a model").folder().expect("a folder")));
    assert_eq!(users(&folder), 4, "two engines with two roles each");
    assert_eq!(logprobs_of(&first), logprobs_of(&second));
    first.close();
    drop(first);
    assert_eq!(users(&folder), 2);
    let wanted = logprobs_of(&second);
    drop(second);
    assert!(folder.packed(|| Err(Error::internal("nobody has them"))).is_err(), "they went with the last engine");
    assert_eq!(logprobs_of(&two_roles(&path)), wanted, "and are packed again");
}

#[test]
fn those_that_fall_back_to_another_provider_share_as_well() {
    use crate::runtime::{OnUnavailable, Provider};
    let (_files, path) = testing::exported("llama", Quantize::None);
    let engine = || {
        let mut config = Config::default();
        // ONNX Runtime's build for the CPU has no TensorRT.
        config.runtime.providers = vec![Provider::TensorRt, Provider::Cpu];
        config.runtime.on_unavailable = OnUnavailable::Fallback;
        for name in ["one", "two"] {
            config.models.insert(name.into(), ModelConfig::local(&path));
        }
        engine_with::<0>(config, 600, [])
    };
    let first = engine();
    let folder = first.model("one").expect("a model").folder().expect("a folder");
    assert_eq!((folder.provider().used, folder.provider().unavailable.len()), (Provider::Cpu, 1));
    assert_eq!(users(&folder), 2, "two roles");
    let second = engine();
    assert_eq!(users(&folder), 4, "two engines with two roles each");
    assert_eq!(logprobs_of(&first), logprobs_of(&second));
    let plain = two_roles(&path);
    assert_eq!(users(&folder), 4, "the report of one that has no other provider is another");
    assert_eq!(logprobs_of(&plain), logprobs_of(&second));
}

#[test]
fn new_weights_of_one_engine_are_not_the_others() {
    let (files, path) = testing::exported("llama", Quantize::None);
    let next = files.path().join("next");
    std::fs::create_dir(&next).expect("made");
    for file in std::fs::read_dir(&path).expect("a folder").map(|file| file.expect("a file")) {
        std::fs::copy(file.path(), next.join(file.file_name())).expect("copied");
    }
    scale(&next, 0.9);
    let (first, second) = (two_roles(&path), two_roles(&path));
    let before = logprobs_of(&second);
    let folder = first.model("one").expect("a model").folder().expect("a folder");
    let options = || RefreshOptions { shared: true, ..RefreshOptions::default() };
    let refresh = |engine: &Engine| engine.model("one").expect("a model").refresh(&next, options()).expect("exchanged");
    refresh(&first);
    assert_eq!(users(&folder), 3, "one of the four has others now");
    assert_ne!(logprobs_of(&first), before);
    assert_eq!(logprobs_of(&second), before);
    refresh(&second);
    assert_eq!(logprobs_of(&second), logprobs_of(&first), "which they share again");
}

#[test]
fn a_folder_that_was_written_to_has_new_weights() {
    let (_files, path) = testing::exported("llama", Quantize::None);
    let first = two_roles(&path);
    let before = logprobs_of(&first);
    // The new file takes the old one's name; the one that the first engine reads stays as it is.
    let (weights, kept) = (path.join("model.safetensors"), path.join("kept"));
    std::fs::copy(&weights, &kept).expect("copied");
    std::fs::rename(&kept, &weights).expect("replaced");
    scale(&path, 0.9);
    let second = two_roles(&path);
    assert_ne!(logprobs_of(&second), before);
    assert_eq!(logprobs_of(&first), before);
}

#[test]
fn who_comes_while_weights_are_packed_waits_for_them() {
    let slot = Slot::<u32>::default();
    let made = std::sync::atomic::AtomicUsize::new(0);
    let make = || {
        made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(50));
        Ok(7)
    };
    let (one, other) = std::thread::scope(|scope| {
        #[allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]
        let one = scope.spawn(|| slot.get(make).expect("made"));
        let other = slot.get(make).expect("made");
        (one.join().expect("no panic"), other)
    });
    assert!(Arc::ptr_eq(&one, &other));
    assert_eq!(made.into_inner(), 1);
}
