//! One segment of the index, opened: its terms and columns, and what is looked up often enough to be kept beside them.

use std::sync::Arc;

use roaring::RoaringBitmap;
use tantivy::columnar::{Column, StrColumn};
use tantivy::index::SegmentId;
use tantivy::postings::TermInfo;
use tantivy::schema::IndexRecordOption;
use tantivy::{DocId, InvertedIndexReader, Opstamp, SegmentReader, TERMINATED};

use super::IndexError;
use super::directory::{FINGERPRINT, Fields, IDENTITY};
use super::terms::{self, PartKey, Range};
use crate::resource::GroupVersionResource;

/// The upper half of a fingerprint: enough to find a document by, and half the memory of the whole.
type Beginning = u32;

/// An opened segment. Never written; a commit that deletes from it opens it anew.
pub(crate) struct Segment {
    id: SegmentId,
    deletes: Option<Opstamp>,
    terms: Arc<InvertedIndexReader>,
    identities: StrColumn,
    fingerprints: Column<u64>,
    by_fingerprint: Arc<[(Beginning, DocId)]>,
    documents: DocId,
    /// The documents of each part, deleted ones left out.
    pub(crate) parts: Vec<(PartKey, RoaringBitmap)>,
    /// Documents of which not all values are known.
    pub(crate) lacks_values: RoaringBitmap,
    /// Documents of which not all words are known.
    pub(crate) lacks_words: RoaringBitmap,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Segment").field("id", &self.id).field("documents", &self.documents).finish()
    }
}

/// A term's documents, to be read.
pub(crate) struct Term<'a> {
    pub(crate) text: &'a str,
    info: &'a TermInfo,
    segment: &'a Segment,
}

impl Term<'_> {
    /// Where its documents stand.
    pub(crate) fn postings(&self) -> TermInfo {
        self.info.clone()
    }

    /// Its documents, deleted ones among them.
    pub(crate) fn add_to(&self, documents: &mut RoaringBitmap) -> Result<(), IndexError> {
        self.segment.add_postings(self.info, documents)
    }

    /// Its documents, deleted ones among them.
    pub(crate) fn documents(&self) -> Result<RoaringBitmap, IndexError> {
        let mut documents = RoaringBitmap::new();
        self.add_to(&mut documents)?;
        Ok(documents)
    }
}

impl Segment {
    /// Opens a segment; what an earlier opening of it found is taken over.
    pub(super) fn open(reader: &SegmentReader, fields: &Fields, earlier: Option<&Self>) -> Result<Self, IndexError> {
        let columns = reader.fast_fields();
        let identities = columns.str(IDENTITY)?.ok_or(IndexError::Damaged("it has no identities"))?;
        let fingerprints = columns.u64(FINGERPRINT)?;
        let by_fingerprint = match earlier {
            Some(earlier) => Arc::clone(&earlier.by_fingerprint),
            None => sorted(&fingerprints, reader.max_doc()),
        };
        let mut segment = Self {
            id: reader.segment_id(),
            deletes: reader.delete_opstamp(),
            terms: reader.inverted_index(fields.terms)?,
            identities,
            fingerprints,
            by_fingerprint,
            documents: reader.max_doc(),
            parts: Vec::new(),
            lacks_values: RoaringBitmap::new(),
            lacks_words: RoaringBitmap::new(),
        };
        let mut deleted = RoaringBitmap::new();
        if let Some(alive) = reader.alive_bitset() {
            deleted.extend((0..reader.max_doc()).filter(|document| !alive.is_alive(*document)));
        }
        let mut parts = Vec::new();
        let all: Range = (terms::PART.into(), terms::BEHIND_PARTS.into());
        segment.for_each_term(&all, |term| {
            let part = PartKey::from_term(term.text).ok_or(IndexError::Damaged("a part has no name"))?;
            parts.push((part, term.documents()? - &deleted));
            Ok(true)
        })?;
        segment.parts = parts;
        segment.lacks_values = segment.documents_of(terms::LACKS_VALUES)?;
        segment.lacks_words = segment.documents_of(terms::LACKS_WORDS)?;
        Ok(segment)
    }

    /// Whether it is what the reader would open.
    pub(super) fn is(&self, reader: &SegmentReader) -> bool {
        self.is_earlier(reader) && self.deletes == reader.delete_opstamp()
    }

    /// Whether it is the same but for what was deleted since.
    pub(super) fn is_earlier(&self, reader: &SegmentReader) -> bool {
        self.id == reader.segment_id()
    }

    /// Documents in it, deleted ones among them.
    pub(crate) fn size(&self) -> DocId {
        self.documents
    }

    /// The fingerprint of the object that a document was made of.
    pub(crate) fn fingerprint(&self, document: DocId) -> Option<u64> {
        self.fingerprints.first(document)
    }

    /// The documents that were made of the object with this fingerprint, deleted ones among them.
    pub(crate) fn with_fingerprint(&self, fingerprint: u64) -> impl Iterator<Item = DocId> + '_ {
        let beginning = beginning(fingerprint);
        let from = self.by_fingerprint.partition_point(|(known, _)| *known < beginning);
        self.by_fingerprint[from..]
            .iter()
            .take_while(move |(known, _)| *known == beginning)
            .map(|(_, document)| *document)
            .filter(move |document| self.fingerprint(*document) == Some(fingerprint))
    }

    /// Where a document stands in the order of identities.
    pub(crate) fn place(&self, document: DocId) -> Option<u64> {
        self.identities.ords().first(document)
    }

    /// The place of the first identity that is not less than this text.
    pub(crate) fn place_from(&self, text: &str) -> Result<u64, IndexError> {
        let (mut from, mut to) = (0, self.identities.num_terms() as u64);
        let mut at_middle = String::new();
        while from < to {
            let middle = from.midpoint(to);
            at_middle.clear();
            self.identities.ord_to_str(middle, &mut at_middle)?;
            if at_middle.as_str() < text {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        Ok(from)
    }

    /// What a document's object is called.
    pub(crate) fn identity(&self, document: DocId) -> Result<Identity, IndexError> {
        let mut text = String::new();
        let place = self.place(document).ok_or(IndexError::Damaged("a document has no identity"))?;
        self.identities.ord_to_str(place, &mut text)?;
        Identity::from_text(&text).ok_or(IndexError::Damaged("an identity can't be read"))
    }

    /// The documents of a part, deleted ones left out.
    pub(crate) fn documents_of_part(&self, part: &PartKey) -> Option<&RoaringBitmap> {
        // Terms are in the order of the names that they are made of.
        let at = self.parts.binary_search_by(|(known, _)| known.cmp(part)).ok()?;
        self.parts.get(at).map(|(_, documents)| documents)
    }

    /// The documents of one term, deleted ones among them; nothing if there is no such term.
    pub(crate) fn documents_of(&self, term: &str) -> Result<RoaringBitmap, IndexError> {
        let mut documents = RoaringBitmap::new();
        if let Some(info) = self.terms.terms().get(term)? {
            self.add_postings(&info, &mut documents)?;
        }
        Ok(documents)
    }

    /// Calls for every term of a range in its order, as long as the answer is yes.
    pub(crate) fn for_each_term(
        &self,
        range: &Range,
        mut call: impl FnMut(Term<'_>) -> Result<bool, IndexError>,
    ) -> Result<(), IndexError> {
        let mut stream = self.terms.terms().range().ge(&range.0).lt(&range.1).into_stream()?;
        while stream.advance() {
            let text = str::from_utf8(stream.key()).map_err(|_| IndexError::Damaged("a term is no text"))?;
            if !call(Term { text, info: stream.value(), segment: self })? {
                break;
            }
        }
        Ok(())
    }

    /// Reads a term's documents, deleted ones among them.
    pub(crate) fn add_postings(&self, info: &TermInfo, documents: &mut RoaringBitmap) -> Result<(), IndexError> {
        let mut postings = self.terms.read_block_postings_from_terminfo(info, IndexRecordOption::Basic)?;
        loop {
            let block = postings.docs();
            let [first, .., last] = *block else {
                documents.extend(block.iter().copied().filter(|document| *document != TERMINATED));
                return Ok(());
            };
            if (last - first) as usize == block.len() - 1 {
                documents.insert_range(first..=last);
            } else {
                documents.extend(block);
            }
            postings.advance();
        }
    }
}

fn beginning(fingerprint: u64) -> Beginning {
    (fingerprint >> 32) as Beginning
}

fn sorted(fingerprints: &Column<u64>, documents: DocId) -> Arc<[(Beginning, DocId)]> {
    let mut pairs: Vec<(Beginning, DocId)> = (0..documents)
        .filter_map(|document| fingerprints.first(document).map(|fingerprint| (beginning(fingerprint), document)))
        .collect();
    pairs.sort_unstable();
    pairs.into()
}

/// What an object is called, in the order in which answers come: a text whose order is that of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Kind, namespace, name, cluster, group: as sort keys have it.
    pub(crate) order: [String; 5],
    /// The part that it is in.
    pub(crate) part: PartKey,
}

/// Between the parts of an identity: less than any character in them.
const SEPARATOR: char = '\0';

impl Identity {
    pub(super) fn text(part: &PartKey, kind: &str, namespace: &str, name: &str) -> String {
        let PartKey { cluster, resource, .. } = part;
        let texts = [kind, namespace, name, cluster.as_str(), &resource.group, &resource.version, &resource.resource];
        texts.join("\0")
    }

    /// What is not less than any identity that begins with these.
    pub(crate) fn behind(order: &[String; 5]) -> String {
        format!("{}\u{1}", order.join("\0"))
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut texts = text.split(SEPARATOR);
        let mut next = || texts.next();
        let order = [next()?, next()?, next()?, next()?, next()?];
        let resource = GroupVersionResource::new(order[4], next()?, next()?);
        let part = PartKey::new(order[3].into(), resource);
        Some(Self { order: order.map(str::to_owned), part })
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.order[1]
    }

    pub(crate) fn name(&self) -> &str {
        &self.order[2]
    }
}
