//! RocksDB's settings.
//!
//! What firn stores is counted with its index, so nothing is allocated ahead: RocksDB's defaults would set aside
//! tens of MiB for logs that hold kilobytes.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options};

const KIB: usize = 1024;
/// RocksDB's default; zstd chooses its window itself.
const ZSTD_WINDOW_BITS: i32 = -14;
/// Of what is mostly random, level 3 saves 0.4 % of the index more, for a fifth more of the CPU of a collection, which
/// merges what it takes out.
const ZSTD_LEVEL: i32 = 1;
/// The rows of [`crate::RocksMeta`] are text for the most part.
const META_ZSTD_LEVEL: i32 = 3;
/// A sample of each file, with which its blocks are compressed.
const DICTIONARY_BYTES: i32 = 16 * 1024;
const MIB: usize = 1024 * KIB;

/// How a [`crate::RocksMeta`] uses memory.
///
/// The bound is `cache_bytes` + 8 MiB of write buffers + 8 MiB for each of two merges, of whose rows the dictionary is sampled +
/// some hundred bytes for each of its files.
#[derive(Debug, Clone)]
pub struct MetaOptions {
    /// Size of the cache of blocks, uncompressed, with their indexes and filters.
    pub cache_bytes: usize,
}

impl Default for MetaOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 * MIB }
    }
}

/// How a [`crate::RocksChunkIndex`] uses memory.
///
/// The bound is `cache_bytes` + twice `write_buffer_bytes` + 4 MiB for what caches have seen and for lineages + 2 MiB for each look-up under
/// way + some hundred bytes for each of its files.
#[derive(Debug, Clone)]
pub struct ChunkIndexOptions {
    /// Size of the cache of blocks, uncompressed, with their indexes and filters.
    pub cache_bytes: usize,
    /// How many bytes of new entries are gathered before they are written; two such buffers may be full.
    pub write_buffer_bytes: usize,
}

impl Default for ChunkIndexOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 * MIB, write_buffer_bytes: 8 * MIB }
    }
}

/// Returns a cache of blocks of about 8 KiB.
pub(crate) fn block_cache(bytes: usize) -> Cache {
    Cache::new_hyper_clock_cache(bytes, 0)
}

/// Returns the settings of a whole database, but for what [`meta_database`] and [`chunk_database`] add.
fn database() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(2);
    // RocksDB slows writers down at 20 files of level 0 and stops them at 36. See `database::write`: it tells a stop
    // from a disk without room, and wants no third state.
    options.set_level_zero_slowdown_writes_trigger(36);
    options.set_level_zero_stop_writes_trigger(36);
    options.set_max_open_files(512);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, log));
    options.set_recycle_log_file_num(0);
    options.set_manifest_preallocation_size(16 * KIB);
    options.set_max_manifest_file_size(4 * MIB);
    options
}

/// Returns the settings of the database of [`crate::RocksMeta`].
pub(crate) fn meta_database() -> Options {
    let mut options = database();
    // An ordinary crash tears the last record, which nobody was told of. That it is the last one, `log_files` has seen.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // Logs that are written no more are noted with their lengths, so that one that is gone is missed.
    options.set_track_and_verify_wals_in_manifest(true);
    // Counted as everything else on the disk is: a family that is seldom written to would keep the logs of the others.
    options.set_max_total_wal_size(MIB as u64);
    options.set_db_write_buffer_size(8 * MIB);
    // RocksDB allocates 1.1 times the largest write buffer ahead for its log.
    options.set_write_buffer_size(MIB);
    options
}

/// Returns the settings of a column family of [`crate::RocksMeta`].
pub(crate) fn meta_family(cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(MIB);
    options.set_arena_block_size(64 * KIB);
    options.set_level_zero_slowdown_writes_trigger(36);
    options.set_level_zero_stop_writes_trigger(36);
    // Write buffers are small, as logs are, so that more of them than RocksDB's four are worth a merge with what lies below.
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_target_file_size_base(8 * MIB as u64);
    options.set_max_bytes_for_level_base(32 * MIB as u64);
    options.set_compression_type(DBCompressionType::Zstd);
    // Rows name paths, packs and builders again and again, in blocks that know nothing of one another.
    options.set_compression_options(ZSTD_WINDOW_BITS, META_ZSTD_LEVEL, 0, DICTIONARY_BYTES);
    let mut tables = tables(cache);
    tables.set_block_size(8 * KIB);
    tables.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&tables);
    options
}

/// Returns the settings of the database of [`crate::RocksChunkIndex`].
pub(crate) fn chunk_database(cache: &Cache, chosen: &ChunkIndexOptions) -> Options {
    let mut options = database();
    // What it says of its number of keys rests on this.
    options.set_skip_stats_update_on_db_open(false);
    options.set_write_buffer_size(chosen.write_buffer_bytes);
    options.set_max_write_buffer_number(2);
    filter_buffers(&mut options);
    options.set_target_file_size_base(16 * MIB as u64);
    options.set_max_bytes_for_level_base(64 * MIB as u64);
    // Ids are random, but packs are named again and again, by chunks whose ids lie far apart: a sample of each file
    // as dictionary finds them. Bytes a chunk, of 200,000 and of 2 million: plain 67 and 66, zstd 55 and 59, with the
    // dictionary 48 and 57 (at level 3), at the same time for a look-up.
    options.set_compression_type(DBCompressionType::Zstd);
    options.set_compression_options(ZSTD_WINDOW_BITS, ZSTD_LEVEL, 0, DICTIONARY_BYTES);
    let mut tables = tables(cache);
    tables.set_block_size(8 * KIB);
    // Ribbon filters are 30 % smaller and slower to build: files of level 0 don't live long enough for that.
    tables.set_hybrid_ribbon_filter(10.0, 1);
    options.set_block_based_table_factory(&tables);
    options
}

/// Returns the settings of the column families of what caches have seen and of lineages.
pub(crate) fn seen_family(cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(MIB);
    options.set_max_write_buffer_number(2);
    filter_buffers(&mut options);
    options.set_arena_block_size(64 * KIB);
    options.set_level_zero_slowdown_writes_trigger(36);
    options.set_level_zero_stop_writes_trigger(36);
    options.set_target_file_size_base(16 * MIB as u64);
    options.set_max_bytes_for_level_base(64 * MIB as u64);
    // There are no values and keys are random, but each carries RocksDB's own eight bytes, zero once it has come down.
    options.set_compression_type(DBCompressionType::Zstd);
    // Lineages name recipes again and again, far apart.
    options.set_compression_options(ZSTD_WINDOW_BITS, ZSTD_LEVEL, 0, DICTIONARY_BYTES);
    let mut tables = tables(cache);
    tables.set_block_size(8 * KIB);
    tables.set_hybrid_ribbon_filter(10.0, 1);
    options.set_block_based_table_factory(&tables);
    options
}

/// Has write buffers tell by a filter that they lack a key, as files do: most that is looked for in them is new. Some ten bits for
/// each of their entries.
fn filter_buffers(options: &mut Options) {
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.02);
}

/// Passes RocksDB's messages on, which it would keep in a file of 120 KiB otherwise.
fn log(level: LogLevel, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => tracing::warn!(message = message.trim(), "RocksDB reports an error"),
        LogLevel::Warn => tracing::debug!(message = message.trim(), "RocksDB reports"),
        LogLevel::Debug | LogLevel::Info | LogLevel::Header => {}
    }
}

fn tables(cache: &Cache) -> BlockBasedOptions {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(cache);
    // In the cache, where the bound on memory holds, instead of beside it.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables.set_optimize_filters_for_memory(true);
    tables
}
