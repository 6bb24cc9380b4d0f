//! Disks that do what disks do: lose what was not synced, tear sectors, run full, fail, hang.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use plenum_store::Medium;
use redb::StorageBackend;

/// What a disk writes or does not write as a whole.
const SECTOR: usize = 512;

/// What was asked of a disk, in order.
#[derive(Clone, Debug)]
pub enum Step {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
    Sync,
}

/// A source of chance with a seed (SplitMix64), so that a failure can be had again.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n.max(1) as u64)).unwrap()
    }
}

/// A disk that remembers every step.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Recording>>);

#[derive(Debug, Default)]
struct Recording {
    bytes: Vec<u8>,
    steps: Vec<Step>,
}

impl Recorder {
    /// A disk with something on it already.
    pub fn with(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Recording { bytes, steps: Vec::new() })))
    }

    /// A disk with an empty database on it. (Making one is not crash safe by itself; for files the store makes it
    /// under another name.)
    pub fn with_database() -> Self {
        let disk = Self::default();
        redb::Database::builder().create_with_backend(disk.clone()).unwrap().close().unwrap();
        Self::with(disk.bytes())
    }

    /// What is on it now.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    /// How many steps there were so far.
    pub fn position(&self) -> usize {
        self.0.lock().unwrap().steps.len()
    }

    pub fn steps(&self) -> Vec<Step> {
        self.0.lock().unwrap().steps.clone()
    }
}

impl Medium for Recorder {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.clone()))
    }

    fn name(&self) -> String {
        "recorded disk".to_owned()
    }
}

fn eof() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let recording = self.0.lock().unwrap();
        let start = index(offset);
        out.copy_from_slice(recording.bytes.get(start..start + out.len()).ok_or_else(eof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut recording = self.0.lock().unwrap();
        recording.bytes.resize(index(len), 0);
        recording.steps.push(Step::SetLen(index(len)));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.lock().unwrap().steps.push(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut recording = self.0.lock().unwrap();
        let start = index(offset);
        recording.bytes.get_mut(start..start + data.len()).ok_or_else(eof)?.copy_from_slice(data);
        recording.steps.push(Step::Write { offset: start, data: data.to_vec() });
        Ok(())
    }
}

/// What such a disk holds after the power failed behind `position` steps. What was synced is there. Of the rest
/// each write is there, or not, or partly: some of its sectors, and of one sector perhaps only the beginning.
/// Changes of length behave as the metadata of a file does: in order, up to some point.
///
/// `before` is what the disk held at first; `honest: false` makes a disk whose sync does nothing until the next.
pub fn after_power_failure(
    before: &[u8],
    steps: &[Step],
    position: usize,
    honest: bool,
    chance: &mut Chance,
) -> Vec<u8> {
    let steps = &steps[..position];
    let mut syncs = steps.iter().enumerate().rev().filter(|(_, step)| matches!(step, Step::Sync));
    let synced = if honest { syncs.next() } else { syncs.nth(1) };
    let synced = synced.map_or(0, |(index, _)| index);
    let mut disk = before.to_vec();
    for step in &steps[..synced] {
        match step {
            Step::Write { offset, data } => disk[*offset..offset + data.len()].copy_from_slice(data),
            Step::SetLen(len) => disk.resize(*len, 0),
            Step::Sync => {}
        }
    }
    // How likely a write is to have made it; sometimes nearly all or nearly none.
    let odds = [0, 10, 50, 90, 100][chance.below(5)];
    let mut sizes = true;
    for step in &steps[synced..] {
        match step {
            Step::SetLen(len) => {
                sizes &= chance.below(100) >= 20;
                // Data beyond the end is lost with it.
                if sizes || *len < disk.len() {
                    disk.resize(*len, 0);
                }
            }
            Step::Write { offset, data } => write_some(&mut disk, *offset, data, odds, chance),
            Step::Sync => {}
        }
    }
    disk
}

fn write_some(disk: &mut [u8], offset: usize, data: &[u8], odds: usize, chance: &mut Chance) {
    let whole = chance.below(4) > 0;
    let lucky = chance.below(100) < odds;
    for (number, sector) in data.chunks(SECTOR).enumerate() {
        let start = offset + number * SECTOR;
        let take = match (whole, lucky) {
            (true, true) => sector.len(),
            (true, false) => 0,
            (false, _) if chance.below(100) < odds => sector.len(),
            (false, _) if chance.below(8) == 0 => chance.below(sector.len()),
            (false, _) => 0,
        };
        if let Some(place) = disk.get_mut(start..start + take) {
            place.copy_from_slice(&sector[..take]);
        }
    }
}

/// A disk in memory that can be told to fail.
#[derive(Clone, Debug, Default)]
pub struct Moody(Arc<Mood>);

#[derive(Debug, Default)]
struct Mood {
    bytes: Mutex<Vec<u8>>,
    /// Bytes there is room for; 0 means no limit.
    room: AtomicU64,
    writes_fail: AtomicBool,
    syncs_fail: AtomicBool,
    reads_fail: AtomicBool,
    syncs: AtomicU64,
    hung: Mutex<bool>,
    released: Condvar,
    opened: AtomicU64,
    faults: Mutex<BTreeMap<&'static str, u64>>,
}

impl Moody {
    /// No room beyond so many bytes; 0 means no limit.
    pub fn set_room(&self, bytes: u64) {
        self.0.room.store(bytes, Ordering::SeqCst);
    }
    pub fn fail_writes(&self, fail: bool) {
        self.0.writes_fail.store(fail, Ordering::SeqCst);
    }
    pub fn fail_syncs(&self, fail: bool) {
        self.0.syncs_fail.store(fail, Ordering::SeqCst);
    }
    pub fn fail_reads(&self, fail: bool) {
        self.0.reads_fail.store(fail, Ordering::SeqCst);
    }
    /// Lets nothing through that syncs, or lets everything go on.
    pub fn hang(&self, hang: bool) {
        *self.0.hung.lock().unwrap() = hang;
        self.0.released.notify_all();
    }
    pub fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::SeqCst)
    }
    pub fn opened(&self) -> u64 {
        self.0.opened.load(Ordering::SeqCst)
    }
    pub fn len(&self) -> u64 {
        self.0.bytes.lock().unwrap().len() as u64
    }
    /// Overwrites what is there.
    pub fn scribble(&self, from: usize) {
        for byte in self.0.bytes.lock().unwrap().iter_mut().skip(from) {
            *byte ^= 0x5a;
        }
    }
    /// How often it failed, by what.
    pub fn faults(&self, what: &'static str) -> u64 {
        self.0.faults.lock().unwrap().get(what).copied().unwrap_or(0)
    }
    fn fault(&self, what: &'static str, kind: io::ErrorKind) -> io::Error {
        *self.0.faults.lock().unwrap().entry(what).or_default() += 1;
        kind.into()
    }
}

impl Medium for Moody {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(self.clone()))
    }

    fn name(&self) -> String {
        "moody disk".to_owned()
    }
}

impl StorageBackend for Moody {
    fn len(&self) -> io::Result<u64> {
        Ok(Moody::len(self))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.0.reads_fail.load(Ordering::SeqCst) {
            return Err(self.fault("read", io::ErrorKind::Other));
        }
        let bytes = self.0.bytes.lock().unwrap();
        let start = index(offset);
        out.copy_from_slice(bytes.get(start..start + out.len()).ok_or_else(eof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let room = self.0.room.load(Ordering::SeqCst);
        if room != 0 && len > room {
            return Err(self.fault("full", io::ErrorKind::StorageFull));
        }
        self.0.bytes.lock().unwrap().resize(index(len), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut hung = self.0.hung.lock().unwrap();
        while *hung {
            hung = self.0.released.wait_timeout(hung, Duration::from_secs(30)).unwrap().0;
        }
        drop(hung);
        if self.0.syncs_fail.load(Ordering::SeqCst) {
            return Err(self.fault("sync", io::ErrorKind::Other));
        }
        self.0.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.0.writes_fail.load(Ordering::SeqCst) {
            return Err(self.fault("write", io::ErrorKind::Other));
        }
        let mut bytes = self.0.bytes.lock().unwrap();
        let start = index(offset);
        bytes.get_mut(start..start + data.len()).ok_or_else(eof)?.copy_from_slice(data);
        Ok(())
    }
}
