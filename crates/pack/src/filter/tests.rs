//! What filters find in real programs and catalogues, and that they are undone whatever the bytes are.

use proptest::prelude::*;

use super::*;

/// This program: machine code, and tables of every kind, linked by the system's linker.
fn program() -> Vec<u8> {
    std::fs::read(std::env::current_exe().unwrap()).unwrap()
}

/// Returns a catalogue as msgfmt writes them: tables of pairs, hashes by double hashing, then the texts.
fn catalogue(texts: &[(String, String)]) -> Vec<u8> {
    let count = texts.len();
    let size = (count * 4 / 3..).find(|&n| n > 2 && (2..n).take_while(|d| d * d <= n).all(|d| n % d != 0)).unwrap();
    let mut hashes = vec![0_u32; size];
    for (number, (message, _)) in texts.iter().enumerate() {
        let mut hash = 0_u64;
        for byte in message.split('\0').next().unwrap().bytes() {
            hash = (hash << 4) + u64::from(byte);
            hash = (hash ^ ((hash & 0xf000_0000) >> 24)) & !0xf000_0000;
        }
        let hash = usize::try_from(hash).unwrap();
        let mut at = hash % size;
        while hashes[at] != 0 {
            at = (at + 1 + hash % (size - 2)) % size;
        }
        hashes[at] = u32::try_from(number + 1).unwrap();
    }
    let tables = 28 + 16 * count;
    let mut words = vec![0x9504_12de, 0, count, 28, 28 + 8 * count, size, tables];
    let mut place = tables + 4 * size;
    for text in texts.iter().map(|(message, _)| message).chain(texts.iter().map(|(_, translation)| translation)) {
        words.extend([text.len(), place]);
        place += text.len() + 1;
    }
    let mut out: Vec<u8> = words.iter().flat_map(|&word| u32::try_from(word).unwrap().to_le_bytes()).collect();
    out.extend(hashes.iter().flat_map(|word| word.to_le_bytes()));
    for text in texts.iter().map(|(message, _)| message).chain(texts.iter().map(|(_, translation)| translation)) {
        out.extend(text.bytes().chain([0]));
    }
    out
}

/// Returns a compiled module of Python with so many functions, as marshal writes it.
fn module(functions: usize, seed: usize) -> Vec<u8> {
    fn bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
        out.push(tag);
        out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        out.extend(bytes);
    }
    fn function(out: &mut Vec<u8>, name: &str, constants: impl FnOnce(&mut Vec<u8>)) {
        out.push(b'c' | 0x80);
        out.extend([1, 0, 0, 0].repeat(5));
        bytes(out, b's', &name.bytes().flat_map(|byte| [0x64, byte, 0x53, 0]).collect::<Vec<_>>());
        constants(out);
        out.extend(b")\x02r\x01\0\0\0z\x04name");
        out.extend(b"(\0\0\0\0");
        bytes(out, b's', b"");
        bytes(out, b'u', b"file.py");
        bytes(out, b'a' | 0x80, name.as_bytes());
        out.extend(b"r\x02\0\0\0");
        out.extend([7, 0, 0, 0]);
        bytes(out, b's', &[0xf3, 0, 1, 2].repeat(10));
        bytes(out, b's', b"");
    }
    let mut out = vec![0xa7, 13, 13, 10, 0, 0, 0, 0];
    out.extend([7; 8]);
    function(&mut out, "module", |out| {
        out.extend([b')', u8::try_from(functions + 8).unwrap()]);
        out.extend(
            b"NTFi\x05\0\0\0l\x02\0\0\0\x01\0\x02\0g\0\0\0\0\0\0\0\0y\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0>\x01\0\0\0.",
        );
        for number in 0..functions {
            function(out, &format!("function_{seed}_{number}"), |out| out.extend(b")\0"));
        }
    });
    out
}

fn some_texts(count: usize) -> Vec<(String, String)> {
    let plural = |n: usize| if n.is_multiple_of(20) { "\0plural" } else { "" };
    (0..count).map(|n| (format!("message {n} of many{}", plural(n)), format!("translation {n}"))).collect()
}

/// Returns how many bytes have a filter of this number.
fn filters(data: &[u8], code: u32) -> usize {
    let found = Filters::find(data).0;
    found.iter().filter(|segment| segment.filter.code() == code).map(|segment| segment.range.len()).sum()
}

const X86: u32 = 0;
const MESSAGES: u32 = 6;
const BYTECODE: u32 = 7;
const UNLINKED: u32 = 8;

/// Returns the filter of a number, as it would be found in these bytes.
fn filter(code: u32, data: &[u8]) -> Filter {
    let list = [code, 0, 0, 0].map(u32::to_le_bytes).map(|[byte, ..]| byte);
    match List(&list[1..]).filter(code).unwrap() {
        Filter::X86(_) => Filter::X86(x86::Counts::of(data)),
        other => other,
    }
}

/// Returns the segments of each group.
fn groups_of(found: &Filters) -> Vec<Vec<Range<usize>>> {
    let ends = groups(&found.0).map(|group| group.ends());
    let within = |first: &Segment, last: &Segment| {
        let ranges = found.0.iter().map(|segment| segment.range.clone());
        ranges.filter(|range| range.start >= first.range.start && range.end <= last.range.end).collect()
    };
    ends.map(|(first, last)| within(first, last)).collect()
}

fn check_undone(filters: &Filters, data: &[u8]) {
    let mut filtered = data.to_vec();
    filters.forward(&mut filtered);
    assert_eq!(filtered.len(), data.len());
    let list = filters.encode();
    let (parsed, rest) = Filters::parse(&list, number(data.len())).unwrap();
    assert_eq!((&parsed, rest), (filters, &[][..]));
    parsed.inverse(&mut filtered);
    assert!(filtered == data, "other bytes came back");
}

#[test]
fn a_program_is_told_by_its_parts_and_comes_back() {
    let program = program();
    // Code, entries, relocations, symbols, sections, and the index of the entries.
    for code in [X86, 1, 3, 4, 5, 9] {
        assert!(filters(&program, code) > 0, "{code}");
    }
    check_undone(&Filters::find(&program), &program);
    // Wherever a frame begins and ends.
    for start in [1, 4097, program.len() / 3] {
        let part = &program[start..program.len() - start];
        check_undone(&Filters::find(part), part);
    }
}

#[test]
fn a_program_compresses_better() {
    let program = program();
    let mut filtered = program.clone();
    Filters::find(&program).forward(&mut filtered);
    let [before, after] = [&program, &filtered].map(|data| zstd::bulk::compress(data, 3).unwrap().len());
    assert!(after * 100 < before * 95, "{after} bytes instead of {before}");
}

#[test]
fn calls_of_one_function_look_alike_behind_the_rest() {
    // call +0x100 at 0; call +0xfb at 5: the same target; a jump that is not linked yet; je +16; mov eax, [rip + 32].
    let mut code = b"\xe8\0\x01\0\0\xe8\xfb\0\0\0\xe9\0\0\0\0\x0f\x84\x10\0\0\0\x8b\x05\x20\0\0\0".to_vec();
    code.resize(100, 0x90);
    let before = code.clone();
    let counts = x86::Counts::of(&code);
    assert_eq!(counts, x86::Counts([3, 1, 1]));
    x86::forward(&mut code, 1000);
    assert!(code.starts_with(b"\xe8\xe8\xe9\x0f\x84\x8b\x05\x90"));
    let behind = [1000_u32 + 5 + 0x100, 1000 + 5 + 0x100, 0, 1000 + 21 + 16, 1000 + 27 + 32];
    assert_eq!(code[80..], *behind.map(u32::to_be_bytes).as_flattened());
    // Other counts than these are not those of what was written.
    for wrong in [[3, 1, 0], [4, 1, 1], [1, 3, 1], [u32::MAX; 3], [0; 3]] {
        let mut unchanged = code.clone();
        x86::inverse(&mut unchanged, 1000, x86::Counts(wrong));
        assert_eq!(unchanged, code);
    }
    x86::inverse(&mut code, 1000, counts);
    assert_eq!(code, before);
}

/// Returns entries of functions of 32 bytes each, with a common one in front, and their index before them.
fn unwind_tables(functions: u32, is_linked: bool) -> Vec<u8> {
    let index_len = 12 + 8 * functions;
    let mut entries = vec![20, 0, u32::from_le_bytes(*b"\x01zR\0"), u32::from_le_bytes([1, 0x78, 16, 1]), 0x1b, 0];
    let mut rows = Vec::new();
    for number in 0..functions {
        let at = 4 * entries.len() as u32;
        // Code lies 100,000 bytes behind the index; functions are not in the order of their entries.
        let begin = 100_000 + 32 * (number ^ 1);
        rows.push([begin, index_len + at]);
        let relative = if is_linked { begin.wrapping_sub(index_len + at + 8) } else { 0 };
        entries.extend([16, at + 4, relative, 32, 0]);
    }
    rows.sort_unstable();
    let head = [u32::from_le_bytes(unwind::INDEX_MAGIC), 0, functions];
    let words = head.into_iter().chain(rows.into_iter().flatten()).chain(entries);
    words.flat_map(u32::to_le_bytes).collect()
}

#[test]
fn entries_of_unwind_tables_are_alike_and_their_index_says_nothing() {
    for is_linked in [true, false] {
        let tables = unwind_tables(100, is_linked);
        let found = Filters::find(&tables);
        let codes: Vec<u32> = found.0.iter().map(|segment| segment.filter.code()).collect();
        assert_eq!(codes, if is_linked { [9, 1] } else { [2, UNLINKED] });
        check_undone(&found, &tables);
        let mut filtered = tables.clone();
        found.forward(&mut filtered);
        let [index, entries] = [0, 1].map(|at| &filtered[found.0[at].range.clone()]);
        assert!(!is_linked || index.iter().all(|&byte| byte == 0));
        // Behind the common entry, and the first ones, which are not in a row.
        let entries: Vec<&[u8]> = entries[24..].chunks_exact(20).step_by(2).skip(1).collect();
        assert!(entries.windows(2).all(|pair| pair[0] == pair[1]));
        // Who wants a part of the index needs the entries.
        assert_eq!(found.needed(100), if is_linked { tables.len() } else { 12 + 800 });
    }
}

#[test]
fn lengths_of_instructions_are_intels() {
    let lens: [(&[u8], usize, Option<usize>); 20] = [
        (b"\x90", 1, None),
        (b"\xf3\x0f\x1e\xfa", 4, None),
        (b"\x48\x8b\x05\x01\x02\x03\x04", 7, Some(3)),
        (b"\x48\x8d\x3d\x01\x02\x03\x04", 7, Some(3)),
        (b"\x48\x89\x5c\x24\x08", 5, None),
        (b"\x48\xb8\x01\x02\x03\x04\x05\x06\x07\x08", 10, None),
        (b"\xb8\x01\x02\x03\x04", 5, None),
        (b"\x66\xb8\x01\x02", 4, None),
        (b"\x0f\x84\x01\x02\x03\x04", 6, Some(2)),
        (b"\xe8\x01\x02\x03\x04", 5, Some(1)),
        (b"\x74\x10", 2, None),
        (b"\xc7\x05\x01\x02\x03\x04\x05\x06\x07\x08", 10, Some(2)),
        (b"\xc7\x84\x24\x01\x02\x03\x04\x05\x06\x07\x08", 11, None),
        (b"\xf6\x05\x01\x02\x03\x04\x10", 7, Some(2)),
        (b"\xf7\xd8", 2, None),
        (b"\x8b\x04\x85\x01\x02\x03\x04", 7, None),
        (b"\xc5\xf9\x6f\x05\x01\x02\x03\x04", 8, Some(4)),
        (b"\xc4\xe3\x7d\x39\xc1\x01", 6, None),
        (b"\x66\x0f\x3a\x0f\x05\x01\x02\x03\x04\x08", 10, Some(5)),
        (b"\x62\xf1\x7c\x48\x28\x05\x01\x02\x03\x04", 10, Some(6)),
    ];
    for (bytes, len, operand) in lens {
        let mut seen = Vec::new();
        let mut code = bytes.to_vec();
        code.extend([0x90; 40]);
        x86::look(&code, |found, _| seen.push((found.at, found.next)));
        assert_eq!(seen, operand.map(|at| (at, len)).into_iter().collect::<Vec<_>>(), "{bytes:x?}");
        // A call behind it is seen where the instruction ends.
        code.splice(len.., *b"\xe8\x01\0\0\0").for_each(drop);
        code.extend([0x90; 40]);
        x86::look(&code, |found, _| seen.push((found.at, found.next)));
        assert_eq!(seen.last(), Some(&(len + 1, len + 5)), "{bytes:x?}");
    }
}

#[test]
fn the_tables_of_a_catalogue_become_zeros() {
    let catalogue = catalogue(&some_texts(300));
    assert_eq!(filters(&catalogue, MESSAGES), catalogue.len());
    let found = Filters::find(&catalogue);
    check_undone(&found, &catalogue);
    let mut filtered = catalogue.clone();
    found.forward(&mut filtered);
    let texts = 28 + 16 * 300 + 4 * u32::from_le_bytes(*catalogue[20..].first_chunk().unwrap()) as usize;
    let left = filtered[28..texts].iter().filter(|&&byte| byte != 0).count();
    // Only the length of a message that has a plural is not told by its first zero.
    assert!(left < 100, "{left} bytes of tables are left");
}

#[test]
fn modules_are_split_together_and_come_back() {
    let modules: Vec<Vec<u8>> = (0..6).map(|seed| module(20 * seed, seed)).collect();
    let mut data = b"other bytes".to_vec();
    for (module, gap) in modules.iter().zip([0, 100, MAX_GROUP_GAP, MAX_GROUP_GAP + 1, 5, 0]) {
        data.extend(vec![b'x'; gap]);
        data.extend(module);
    }
    let found = Filters::find(&data);
    // The smallest one is not worth it.
    assert_eq!(filters(&data, BYTECODE), modules[1..].iter().map(Vec::len).sum::<usize>());
    let groups = groups_of(&found);
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 3]);
    check_undone(&found, &data);
    let mut filtered = data.clone();
    found.forward(&mut filtered);
    // What a group begins with stays, and the numbers of its references come last.
    let [begin, end] = [groups[0][0].start, groups[0][1].end];
    assert_eq!(filtered[begin..begin + 20], data[begin..begin + 20]);
    assert!(filtered[end - 100..end].iter().all(|&byte| byte == 0));

    // Half of a group needs all of it.
    assert_eq!(found.needed(begin + 1), end);
    assert_eq!(found.needed(end), end);
    assert_eq!(found.needed(groups[1][1].end), groups[1][2].end);
}

#[test]
fn a_module_that_is_broken_or_too_deep_stays_as_it_is() {
    let whole = module(20, 1);
    assert!(!Filters::find(&whole).is_empty());
    assert!(Filters::find(&whole[..whole.len() - 1]).is_empty());
    for tag in [b'f', b'?', 0] {
        let mut broken = whole.clone();
        broken[16] = tag;
        assert!(Filters::find(&broken).is_empty());
    }
    let mut deep = whole[..16].to_vec();
    deep.extend(b")\x01".repeat(100_000));
    assert!(Filters::find(&deep).is_empty());
}

/// Each takes hours if what was looked through is looked through again from the next place that looks like a beginning.
#[test]
fn bytes_that_look_like_beginnings_everywhere_take_no_longer() {
    let count = 200_000_u32;
    let words =
        |row: &dyn Fn(u32) -> Vec<u32>| -> Vec<u8> { (0..count).flat_map(row).flat_map(u32::to_le_bytes).collect() };
    let index = words(&|row| vec![row, u32::from_le_bytes(unwind::INDEX_MAGIC)]);
    let unwind = words(&|row| match row % 2 {
        0 => vec![20, 0, u32::from_le_bytes(*b"\x01zR\0"), u32::from_le_bytes([1, 1, 16, 1]), 0x1b, 0],
        _ => vec![20, 28, 1, 1, 1, 1],
    });
    let catalogues = words(&|_| vec![0x9504_12de, 0, count, 28, 28 + 8 * count, 0, 28 + 16 * count]);
    let mut modules = Vec::new();
    for _ in 0..count {
        modules.extend(b"\xa7\r\r\n\0\0\0\0\0\0\0\0\0\0\0\0(\xff\xff\xff\x00s\x10\0\0\0");
    }
    for (data, expected) in [(index, 1), (unwind, 1), (catalogues, 0), (modules, 0)] {
        let found = Filters::find(&data);
        assert_eq!(found.0.iter().filter(|segment| segment.filter.code() != X86).count(), expected);
        check_undone(&found, &data);
    }
}

#[test]
fn what_is_no_program_has_no_filters() {
    let text = "some words of a text, again and again\n".repeat(10_000);
    assert!(Filters::find(text.as_bytes()).is_empty());
    assert!(Filters::find(&vec![0; 1 << 20]).is_empty());
    assert!(Filters::find(&[]).is_empty());
}

#[test]
fn the_beginning_of_a_frame_takes_whole_segments() {
    let segment = |range| Segment { filter: Filter::Symbols, range };
    let filters = Filters(vec![segment(100..200), segment(200..300), segment(500..600)]);
    let needed = [0, 100, 101, 200, 201, 300, 301, 500, 501, 700].map(|wanted| filters.needed(wanted));
    assert_eq!(needed, [0, 100, 200, 200, 300, 300, 301, 500, 600, 700]);
}

#[test]
fn what_would_not_come_back_is_not_filtered() {
    // An entry whose common entry would be at its own end: told as none, which a common entry's is.
    let entry: Vec<u8> = [16_u32, 5, 1, 1, 0, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect();
    let filters = Filters(vec![Segment { filter: Filter::Unwind { is_linked: true }, range: 0..entry.len() }]);
    assert_eq!(filters.apply(&entry), None);
    let program = program();
    assert!(Filters::find(&program).apply(&program).is_some());
}

#[test]
fn a_list_that_was_not_written_is_refused() {
    let list = |numbers: &[u32]| numbers.iter().flat_map(|n| postcard::to_stdvec(n).unwrap()).collect::<Vec<u8>>();
    let is_corrupt = |bytes: &[u8]| matches!(Filters::parse(bytes, 100), Err(Error::Corrupt { .. }));
    let good = list(&[2, 0, 10, 20, 1, 2, 3, 1, 0, 70]);
    assert!(Filters::parse(&good, 100).is_ok());
    assert!((0..good.len()).all(|len| is_corrupt(&good[..len])));
    assert!(is_corrupt(&list(&[2, 0, 10, 20, 1, 2, 3, 1, 0, 71])));
    assert!(is_corrupt(&list(&[1, 3, u32::MAX, 20])));
    assert!(is_corrupt(&list(&[2, 3, 10, 20, 1, u32::MAX, u32::MAX])));
    let many = u32::try_from(MAX_SEGMENTS + 1).unwrap();
    assert!(is_corrupt(&[list(&[many]), list(&[3, 0, 0]).repeat(MAX_SEGMENTS + 1)].concat()));
    let newer = Filters::parse(&list(&[1, 10, 10, 20]), 100).unwrap_err();
    assert!(matches!(newer, Error::Unsupported { field: "filter", found: 10, .. }), "{newer}");
}

/// Bytes that are mostly what filters look for.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..3000),
        (0..5000_usize, 1..5000_usize).prop_map(|(at, len)| {
            let program = program();
            let start = program.len() / 5000 * at;
            program[start..program.len().min(start + 8 * len)].to_vec()
        }),
        (1..200_u32, any::<bool>()).prop_map(|(functions, is_linked)| unwind_tables(functions, is_linked)),
        (1..200_usize).prop_map(|count| catalogue(&some_texts(count))),
        (0..200_usize, 0..9_usize).prop_map(|(functions, seed)| module(functions, seed)),
    ];
    prop::collection::vec(part, 0..4).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_found_is_undone(data in data()) {
        check_undone(&Filters::find(&data), &data);
    }

    #[test]
    fn any_bytes_may_be_undone(
        mut data in data(),
        cuts in prop::collection::vec((0_u32..10, 0_usize..2000, 0_usize..40_000, any::<bool>()), 0..20),
    ) {
        let mut filters = Filters::default();
        let mut end = 0;
        for (code, gap, len, is_right) in cuts {
            let range = end + gap..end + gap + len;
            end = range.end;
            let counted = if is_right { data.get(range.clone()).unwrap_or_default() } else { &[] };
            filters.0.push(Segment { filter: filter(code, counted), range });
        }
        filters.inverse(&mut data);
    }

    #[test]
    fn all_but_unwind_tables_may_be_any_bytes(
        data in data(),
        code in prop::sample::select(vec![X86, 2, 3, 4, 5, MESSAGES, BYTECODE, 9]),
    ) {
        let segment = Segment { filter: filter(code, &data), range: 0..data.len() };
        check_undone(&Filters(vec![segment]), &data);
    }
}
