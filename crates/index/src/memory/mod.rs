//! Engines that keep everything in memory: for tests of what stands above, and as the model that
//! durable engines are compared with. Plain rather than fast: every call takes one lock.

mod chunks;
mod meta;
mod sources;
#[cfg(test)]
mod tests;

pub use chunks::MemoryChunkIndex;
pub use meta::MemoryMeta;
