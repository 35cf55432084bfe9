//! Where the index is kept, and what Tantivy is told of it.

use std::fmt::{Display, Formatter};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use tantivy::directory::{Directory, MmapDirectory, RamDirectory};
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::{TextAnalyzer, TokenizerManager};

use tempfile::TempDir;

use super::IndexError;
use super::terms::TermSplitter;

/// Of the documents' form: a folder of another one is not opened but made anew.
const FORM: &str = "objects-6";
/// What the folders of all forms begin with.
const FORMS: &str = "objects-";
const LOCK: &str = "fleetglass.lock";
/// What the folders begin with that are gone with their process.
const PASSING: &str = "fleetglass-index-";
const TERMS: &str = "terms";
pub(super) const FINGERPRINT: &str = "fingerprint";
pub(super) const IDENTITY: &str = "identity";

/// The fields of a document.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    pub(super) terms: Field,
    pub(super) fingerprint: Field,
    pub(super) identity: Field,
}

fn schema() -> (Schema, Fields) {
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(TERMS)
        .set_fieldnorms(false)
        .set_index_option(IndexRecordOption::Basic);
    let terms = schema.add_text_field(TERMS, TextOptions::default().set_indexing_options(indexing));
    let number: NumericOptions = (FAST | INDEXED).into();
    let fingerprint = schema.add_u64_field(FINGERPRINT, number);
    let identity = schema.add_text_field(IDENTITY, TextOptions::default().set_fast("raw"));
    (schema.build(), Fields { terms, fingerprint, identity })
}

/// Where an index is.
pub(super) enum Place {
    /// In a folder that outlives the process. Nobody else has it while the lock is held.
    Kept { folder: PathBuf, _lock: File },
    /// In a folder that is gone with the process; of one that is killed, with the next that is started.
    Passing { folder: TempDir, _lock: File },
    /// Where nothing can be written to a disk.
    Memory(RamDirectory),
}

impl Display for Place {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kept { folder, .. } => write!(formatter, "{}", folder.display()),
            Self::Passing { folder, .. } => write!(formatter, "{}, until the process ends", folder.path().display()),
            Self::Memory(_) => formatter.write_str("memory"),
        }
    }
}

impl Place {
    /// Takes the folder; without one, a passing place.
    ///
    /// # Errors
    /// If another process has the folder, or it can't be written.
    pub(super) fn take(folder: Option<&Path>) -> Result<Self, IndexError> {
        let Some(folder) = folder else {
            remove_passed();
            return Ok(passing().unwrap_or_else(|error| {
                tracing::warn!(%error, "the search index is kept in memory");
                Self::Memory(RamDirectory::create())
            }));
        };
        std::fs::create_dir_all(folder).map_err(|error| IndexError::Folder { folder: folder.to_path_buf(), error })?;
        let _lock = lock(folder)?;
        remove_other_forms(folder);
        Ok(Self::Kept { folder: folder.to_path_buf(), _lock })
    }

    /// Opens what is there; what can't be opened or is damaged is removed and begun anew. Also tells why it was, if it was.
    ///
    /// # Errors
    /// If it can't be written.
    pub(super) fn open(&self) -> Result<(tantivy::Index, Fields, Option<String>), IndexError> {
        let fields = schema().1;
        let folder = match self {
            Self::Kept { folder, .. } => folder.as_path(),
            Self::Passing { folder, .. } => folder.path(),
            Self::Memory(memory) => return Ok((with_tokenizers(memory.clone())?, fields, None)),
        };
        match open_existing(folder) {
            Ok(index) => Ok((index, fields, None)),
            Err(damage) => {
                remove(folder)?;
                Ok((open_existing(folder)?, fields, Some(damage.to_string())))
            }
        }
    }

    /// Bytes that the index takes.
    pub(super) fn size(&self) -> u64 {
        let folder = match self {
            Self::Kept { folder, .. } => folder.as_path(),
            Self::Passing { folder, .. } => folder.path(),
            Self::Memory(memory) => return memory.total_mem_usage() as u64,
        };
        let files = std::fs::read_dir(folder.join(FORM)).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }
}

/// Keeps others from a folder as long as the file is open.
fn lock(folder: &Path) -> Result<File, IndexError> {
    let in_folder = |error| IndexError::Folder { folder: folder.to_path_buf(), error };
    let file = File::options().create(true).append(true).open(folder.join(LOCK)).map_err(in_folder)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(IndexError::InUse(folder.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(in_folder(error)),
    }
}

fn passing() -> Result<Place, IndexError> {
    let folder = tempfile::Builder::new().prefix(PASSING).tempdir()?;
    let _lock = lock(folder.path())?;
    Ok(Place::Passing { folder, _lock })
}

/// Removes what other versions of the program have left.
fn remove_other_forms(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_other = entry.file_name().to_str().is_some_and(|name| name.starts_with(FORMS) && name != FORM);
        if is_other && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(%error, folder = %entry.path().display(), "an old search index was not removed");
        }
    }
}

/// Removes the folders of processes that were killed: nobody holds their locks.
fn remove_passed() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PASSING));
        // One without a lock is just being made.
        if is_ours && entry.path().join(LOCK).exists() && lock(&entry.path()).is_ok() {
            // Somebody else's, or gone already: then it isn't ours to remove.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn open_existing(folder: &Path) -> Result<tantivy::Index, IndexError> {
    let folder = folder.join(FORM);
    std::fs::create_dir_all(&folder).map_err(|error| IndexError::Folder { folder: folder.clone(), error })?;
    let index = with_tokenizers(MmapDirectory::open(&folder).map_err(tantivy::TantivyError::from)?)?;
    if !index.validate_checksum()?.is_empty() {
        return Err(IndexError::Damaged("a file's checksum is wrong"));
    }
    Ok(index)
}

fn with_tokenizers(directory: impl Into<Box<dyn Directory>>) -> Result<tantivy::Index, IndexError> {
    let mut index = tantivy::Index::open_or_create(directory, schema().0)?;
    let tokenizers = TokenizerManager::default();
    tokenizers.register(TERMS, TextAnalyzer::builder(TermSplitter::default()).build());
    index.set_tokenizers(tokenizers);
    Ok(index)
}

/// Removes the index from a folder; what else is in there stays.
///
/// # Errors
/// If it can't be removed.
pub(super) fn remove(folder: &Path) -> Result<(), IndexError> {
    let folder = folder.join(FORM);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(IndexError::Folder { folder, error }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_of_another_version_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (other, kept) = (folder.path().join("objects-1"), folder.path().join("notes"));
        [&other, &kept].into_iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        let place = Place::take(Some(folder.path())).unwrap();
        assert!(!other.exists() && kept.exists(), "{place}");
    }

    #[test]
    fn a_folder_that_a_killed_process_left_goes_and_one_in_use_stays() {
        let left = tempfile::Builder::new().prefix(PASSING).tempdir().unwrap();
        std::fs::write(left.path().join(LOCK), "").unwrap();
        let used = passing().unwrap();
        remove_passed();
        assert!(!left.path().exists());
        assert!(matches!(used, Place::Passing { folder, .. } if folder.path().exists()));
    }
}
