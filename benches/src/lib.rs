//! Measurements of firn on corpora.
