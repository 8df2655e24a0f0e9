//! An allocator that ends the run when one allocation is larger than any frame allows.
//!
//! libFuzzer's own limit on allocations works with sanitizers only.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::ALLOCATION_BYTES_MAX;

/// The system's allocator, with a cap on each allocation.
pub struct Capped;

// Every call goes to the system's allocator with the caller's own arguments.
unsafe impl GlobalAlloc for Capped {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        check(bytes);
        unsafe { System.realloc(at, layout, bytes) }
    }
}

/// A panic in an allocator may not unwind; libFuzzer reports the abort with its input.
fn check(bytes: usize) {
    if bytes > ALLOCATION_BYTES_MAX {
        std::process::abort();
    }
}
