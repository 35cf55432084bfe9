//! Where the index is kept, and what Tantivy is told of it.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use tantivy::directory::MmapDirectory;
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::{TextAnalyzer, TokenizerManager};

use super::IndexError;
use super::terms::TermSplitter;

/// Of the documents' form: a folder of another one is not opened but made anew.
const FORM: &str = "objects-1";
const LOCK: &str = "fleetglass.lock";
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

/// Keeps other processes from a folder while it lives.
///
/// # Errors
/// If another process has it, or the folder can't be written.
pub(super) fn lock(folder: &Path) -> Result<File, IndexError> {
    let in_folder = |error| IndexError::Folder { folder: folder.to_path_buf(), error };
    std::fs::create_dir_all(folder).map_err(in_folder)?;
    let file = File::options().create(true).append(true).open(folder.join(LOCK)).map_err(in_folder)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(IndexError::InUse(folder.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(in_folder(error)),
    }
}

/// Opens the index in a folder; what can't be opened or is damaged is removed and begun anew. Also tells why it was, if it was.
///
/// # Errors
/// If the folder can't be written.
pub(super) fn open(folder: &Path) -> Result<(tantivy::Index, Fields, Option<String>), IndexError> {
    let place = place(folder);
    std::fs::create_dir_all(&place).map_err(|error| IndexError::Folder { folder: place.clone(), error })?;
    let damage = match open_existing(&place) {
        Ok(index) => return Ok((index, schema().1, None)),
        Err(damage) => damage,
    };
    remove(folder)?;
    std::fs::create_dir_all(&place).map_err(|error| IndexError::Folder { folder: place.clone(), error })?;
    Ok((open_existing(&place)?, schema().1, Some(damage.to_string())))
}

fn open_existing(place: &Path) -> Result<tantivy::Index, IndexError> {
    let directory = MmapDirectory::open(place).map_err(tantivy::TantivyError::from)?;
    let mut index = tantivy::Index::open_or_create(directory, schema().0)?;
    let tokenizers = TokenizerManager::default();
    tokenizers.register(TERMS, TextAnalyzer::builder(TermSplitter::default()).build());
    index.set_tokenizers(tokenizers);
    if !index.validate_checksum()?.is_empty() {
        return Err(IndexError::Damaged("a file's checksum is wrong"));
    }
    Ok(index)
}

fn place(folder: &Path) -> PathBuf {
    folder.join(FORM)
}

/// Removes the index from a folder; what else is in there stays.
///
/// # Errors
/// If it can't be removed.
pub(super) fn remove(folder: &Path) -> Result<(), IndexError> {
    let place = place(folder);
    match std::fs::remove_dir_all(&place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(IndexError::Folder { folder: place, error }),
        _ => Ok(()),
    }
}

/// Bytes that the index takes in a folder.
pub(super) fn size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(place(folder)).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}
