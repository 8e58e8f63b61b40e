//! What came to a cache since a time, for those who keep up with it.

use firn_api::{ListedPath, MAX_LISTED_PATHS, PathList};
use firn_nix::StoreHash;

use super::{Answered, Call, json, refuse};

/// Rows read at a time.
const PAGE: usize = 1000;

/// A path gets its time before it is visible: what came in the last minutes may still lack its neighbours, and is told again the next time.
const SETTLING_SECONDS: u64 = 300;

/// Answers with the paths since a time, in order of their hashes. Looks at [`MAX_LISTED_PATHS`] rows, whether they are told or not, so that
/// no request takes long.
pub(super) async fn paths(call: &Call<'_>, since: u64, after: Option<StoreHash>) -> Answered {
    let list = call.ask(move |app, asker| {
        let mut list = PathList { until: app.now().saturating_sub(SETTLING_SECONDS), paths: Vec::new(), next: None };
        let (mut last, mut left) = (after, MAX_LISTED_PATHS);
        while left > 0 {
            let page = app.engine.meta().paths(&asker.cache.name, last, PAGE.min(left));
            let page = page.map_err(|error| refuse(app)(error.into()))?;
            let Some((end, _)) = page.last() else { return Ok(list) };
            (last, left) = (Some(*end), left - page.len());
            let new = page.iter().filter(|(_, row)| row.committed_at >= since);
            list.paths
                .extend(new.map(|(_, row)| ListedPath { path: row.path.base_name(), committed_at: row.committed_at }));
        }
        list.next = last.map(|hash| hash.to_string());
        Ok(list)
    });
    Ok(json(&list.await?))
}
