//! What all fuzz targets share: a program for libFuzzer around one of the functions in the crates' `fuzz` modules, and a
//! limit on what is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

pub use libfuzzer_sys;

/// Most bytes in one allocation. libFuzzer's own `-malloc_limit_mb` needs a sanitizer, and `-rss_limit_mb` sees only what
/// is touched; the longest that any decoder may make room for at once, before the bytes are there, is a frame's.
const ALLOCATION_BYTES_MAX: usize = 64 << 20;
/// Most bytes that are allocated at a time.
const ALLOCATED_BYTES_MAX: usize = 1 << 30;

/// The system's allocator, which ends the process where more is asked for than any input is worth.
pub struct Bounded(AtomicUsize);

impl Bounded {
    pub const fn new() -> Bounded {
        Bounded(AtomicUsize::new(0))
    }

    fn take(&self, bytes: usize) {
        let all = self.0.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if bytes > ALLOCATION_BYTES_MAX || all > ALLOCATED_BYTES_MAX {
            // Nothing may be allocated here; the trace that libFuzzer prints shows who asked.
            std::process::abort();
        }
    }
}

impl Default for Bounded {
    fn default() -> Bounded {
        Bounded::new()
    }
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        self.take(bytes);
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[macro_export]
macro_rules! target {
    ($function:path) => {
        #[global_allocator]
        static BOUNDED: $crate::Bounded = $crate::Bounded::new();

        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $function(bytes));
    };
}
