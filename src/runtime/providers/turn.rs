//! Turns of threads at a provider that is not made for several at once.
//!
//! All sessions of the WebGPU plug-in share one device and its buffers. Two threads that run two sessions at the same time
//! can get wrong numbers or end the process (ONNX Runtime's issue 32561). So one thread at a time makes, binds, runs and
//! drops what is WebGPU's. CUDA's sessions may run side by side.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Provider;

static WEBGPU: Mutex<()> = Mutex::new(());

/// Waits for the other threads that use `provider`, if it takes one at a time. A thread that has a turn must not ask for
/// another.
pub(in crate::runtime) fn turn(provider: Provider) -> Option<MutexGuard<'static, ()>> {
    // A panic leaves nothing of ours half done.
    (provider == Provider::WebGpu).then(|| WEBGPU.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time_uses_webgpu() {
        let taken = turn(Provider::WebGpu);
        assert!(taken.is_some() && WEBGPU.try_lock().is_err());
        assert!(turn(Provider::Cuda).is_none() && turn(Provider::Cpu).is_none(), "the others wait for nobody");
        drop(taken);
        let (inside, most) = (std::sync::atomic::AtomicUsize::new(0), std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                #[allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]
                scope.spawn(|| {
                    let _turn = turn(Provider::WebGpu);
                    let now = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                    most.fetch_max(now, std::sync::atomic::Ordering::SeqCst);
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                });
            }
        });
        assert_eq!(most.into_inner(), 1);
    }
}
