"""Typed schemas of the groups of `collect`: every key a group file in `conf/` may set, with unit and reason.

Only the standard library is imported here. Each class checks itself when it is made, so that an
object of these classes is valid wherever it turns up. All problems are said at once.
"""

from dataclasses import dataclass, field

from llmstages.config.checks import choice_problem, range_problem, refuse

SOURCE_KINDS = ("files", "links", "python_topics", "python_stdlib", "python_packages")
FORMATS = (
    *("text", "html", "table", "warc", "wikipedia", "epub", "pdf", "jats", "mail", "archive"),
)
CORPUS_SPLITS = ("auto", "characters")


@dataclass
class SourceConfig:
    """One source of a corpus."""

    kind: str = "files"
    """`files` (files, folders, globs, remote paths), `links` (lists of URLs and Reddit submissions, whose pages
    are fetched), or what every Python carries: `python_topics` (pydoc's chapters), `python_stdlib` and
    `python_packages` (docstrings and documentation, read without importing)."""
    paths: list[str] = field(default_factory=list)
    """Files, folders, globs or remote paths (http://, s3://, ...); folders are searched for every readable format."""
    format: str | None = None
    """What the files are: text, html, table, warc, wikipedia, epub, pdf, jats, mail or archive; null: found out file by file."""
    text_column: str | None = None
    """Column or field that holds the text in tabular files; found by its name when null."""
    min_score: int = 3
    """Reddit submissions with a lower score are left out of `links` (3 in WebText, Radford et al. 2019)."""
    weight: float | None = None
    """Share of the training text drawn from this source; null for all: in proportion to their size."""
    priority: int = 0
    """Of duplicates in several sources the one in the source of the highest priority stays."""
    license: str | None = None
    """Licence of the texts, kept in the manifest."""
    published_tokens: float | None = None
    """Tokens of the original that this source stands for, as published; kept in the manifest."""
    published_epochs: float | None = None
    """How often the original was seen in training, as published; pretraining shows it beside its own."""
    max_package_bytes: int = 300_000
    """Most text taken from one installed package, so that no large one drowns the others."""

    def __post_init__(self) -> None:
        refuse(
            choice_problem("source kind", self.kind, SOURCE_KINDS)
            + (choice_problem("source format", self.format, FORMATS) if self.format else [])
            + range_problem("source max_package_bytes", self.max_package_bytes, 1000)
            + range_problem("source weight", self.weight, 0.0)
            + range_problem("source published_tokens", self.published_tokens, 1)
            + range_problem("source published_epochs", self.published_epochs, 0.0)
        )


@dataclass
class CorpusConfig:
    """A corpus recipe: its sources and how it is split."""

    name: str = "local"
    """Name of the corpus; its directory is `corpora/<name>`."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Sources by name."""
    validation_share: float = 0.05
    """Share of the text kept out of training, to measure the model on."""
    split: str = "auto"
    """What is kept out: `auto`: whole documents, or of a source with few the ends of all, from a paragraph on;
    `characters`: the end of every document, exactly this share of its characters."""
    min_documents_to_split: int = 20
    """With fewer documents `split=auto` takes the end of each, so that every source is measured; the pieces of a
    very long file count as one."""

    def __post_init__(self) -> None:
        weights = {name: source.weight for name, source in self.sources.items()}
        without = [name for name, weight in weights.items() if weight is None]
        partly = (
            [f"corpus.sources.{without[0]} has no weight but others have: give all one, or none"]
            if 0 < len(without) < len(weights)
            else []
        )
        refuse(
            partly
            + choice_problem("corpus.split", self.split, CORPUS_SPLITS)
            + range_problem("corpus.validation_share", self.validation_share, 0.001, 0.5)
            + range_problem("corpus.min_documents_to_split", self.min_documents_to_split, 2)
        )


@dataclass
class TokenizerConfig:
    """How the SentencePiece tokenizer of a corpus is trained."""

    kind: str = "bpe"
    """`bpe`, `unigram` or `char`."""
    vocab_size: int = 4096
    """Number of pieces, control and byte pieces included; made smaller, and said, for tiny corpora."""
    sample_bytes: int = 20_000_000
    """At most this much training text is read to train the tokenizer, spread over all of it."""
    character_coverage: float = 0.9995
    """Share of characters that get a piece of their own; the others are spelled in bytes.
    SentencePiece takes 0.98 to 1."""
    split_digits: bool = True
    """Each digit is a piece of its own, so that numbers are read alike wherever they stand."""

    def __post_init__(self) -> None:
        refuse(
            choice_problem("tokenizer.kind", self.kind, ("bpe", "unigram", "char"))
            + range_problem("tokenizer.vocab_size", self.vocab_size, 300, 1_000_000)
            + range_problem("tokenizer.sample_bytes", self.sample_bytes, 10_000)
            + range_problem("tokenizer.character_coverage", self.character_coverage, 0.98, 1.0)
        )


@dataclass
class QualityConfig:
    """What makes a document good enough: lines taken out of it, then rules; a rule set to null is off."""

    name: str = "default"
    """Name of the rule set, kept in the manifest."""
    # Lines that are taken out of a document (C4, Raffel et al. 2020). They change the text.
    min_words_per_line: int | None = None
    """Lines with fewer words are taken out."""
    max_line_word_length: int | None = None
    """Lines with a longer word, in characters, are taken out."""
    drop_lines_without_terminal_punctuation: bool = False
    """Lines that do not end in a full stop, question mark, exclamation mark or closing quote are taken out."""
    drop_javascript_lines: bool = False
    """Lines with the word "javascript" are taken out."""
    drop_policy_lines: bool = False
    """Lines about terms of use, privacy policies and cookies are taken out."""
    remove_citations: bool = False
    """Wikipedia's "[1]", "[edit]" and "[citation needed]" are taken out."""
    # Rules on the document. What they measure is kept, so that another threshold needs no new reading.
    min_words: int | None = None
    """Fewest words a document may have."""
    max_words: int | None = None
    """Most words a document may have."""
    min_sentences: int | None = None
    """Fewest sentences a document may have."""
    min_mean_word_length: float | None = None
    """Least mean word length, in characters."""
    max_mean_word_length: float | None = None
    """Greatest mean word length, in characters."""
    max_symbol_word_ratio: float | None = None
    """Most `#` signs a word, and most ellipses a word."""
    max_bullet_lines_share: float | None = None
    """Greatest share of lines that start with a bullet."""
    max_ellipsis_lines_share: float | None = None
    """Greatest share of lines that end with an ellipsis."""
    min_alphabetic_words_share: float | None = None
    """Least share of words with at least one letter."""
    min_stop_words: int | None = None
    """Fewest English stop words (the, be, to, of, and, that, have, with)."""
    max_lorem_ipsum: int | None = None
    """Most occurrences of "lorem ipsum"."""
    max_curly_brackets: int | None = None
    """Most "{" signs: code in what should be prose."""
    max_duplicate_lines_share: float | None = None
    """Greatest share of lines that repeat an earlier line."""
    max_duplicate_paragraphs_share: float | None = None
    """Greatest share of paragraphs that repeat an earlier one."""
    max_duplicate_lines_characters_share: float | None = None
    """Greatest share of characters in repeated lines."""
    max_duplicate_paragraphs_characters_share: float | None = None
    """Greatest share of characters in repeated paragraphs."""
    max_top_2gram_share: float | None = None
    """Greatest share of characters in the commonest pair of words."""
    max_top_3gram_share: float | None = None
    """Greatest share of characters in the commonest three words in a row."""
    max_top_4gram_share: float | None = None
    """Greatest share of characters in the commonest four words in a row."""
    max_duplicate_5gram_share: float | None = None
    """Greatest share of characters in repeated runs of five words."""
    max_duplicate_6gram_share: float | None = None
    """The same for six words."""
    max_duplicate_7gram_share: float | None = None
    """The same for seven words."""
    max_duplicate_8gram_share: float | None = None
    """The same for eight words."""
    max_duplicate_9gram_share: float | None = None
    """The same for nine words."""
    max_duplicate_10gram_share: float | None = None
    """The same for ten words."""
    min_punctuated_lines_share: float | None = None
    """Least share of lines that end in a punctuation mark."""
    max_short_lines_share: float | None = None
    """Greatest share of lines of 30 characters or fewer."""
    max_repeated_lines_characters_share: float | None = None
    """Greatest share of characters in repeated lines, newlines not counted."""
    max_newlines_per_word: float | None = None
    """Most newlines a word: a list rather than a text."""
    max_replacement_share: float | None = None
    """Greatest share of characters that are U+FFFD or control characters: signs of broken decoding."""


@dataclass
class DedupConfig:
    """Removal of duplicate documents. Near duplicates never straddle the split, removed or not."""

    exact: bool = True
    """Keep one of the documents whose text is equal after case, space and Unicode form are folded."""
    near: bool = True
    """Keep one of the documents that share most of their word n-grams."""
    min_similarity: float = 0.8
    """Jaccard similarity of the sets of word n-grams from which two documents are near duplicates."""
    ngram_words: int = 5
    """Words in an n-gram; 5 as in FineWeb (Penedo et al. 2024)."""
    num_bands: int = 14
    """Bands of MinHash signatures: documents that agree in one band are compared. 14 as in FineWeb."""
    rows_per_band: int = 8
    """Hashes a band; 8 as in FineWeb."""

    def __post_init__(self) -> None:
        refuse(
            range_problem("dedup.min_similarity", self.min_similarity, 0.0, 1.0)
            + range_problem("dedup.ngram_words", self.ngram_words, 1, 100)
            + range_problem("dedup.num_bands", self.num_bands, 1, 256)
            + range_problem("dedup.rows_per_band", self.rows_per_band, 1, 256)
        )


@dataclass
class DecontaminateConfig:
    """Evaluation text is taken out of the corpus (Brown et al. 2020, appendix C)."""

    against: list[str] = field(default_factory=list)
    """Evaluation or labelled files, or folders of them, whose texts must not be trained on."""
    ngram_words: int = 13
    """A document that shares so many words in a row with one of them is contaminated."""
    min_ngram_words: int = 8
    """Shorter evaluation texts are searched for whole, down to this number of words; below it they are left alone, and counted."""
    max_documents: int = 10
    """An n-gram that stands in more documents than this is common speech, no contamination."""
    margin_characters: int = 200
    """Cut out around the n-gram, on both sides."""
    min_piece_characters: int = 200
    """Pieces left shorter than this are dropped."""
    max_pieces: int = 10
    """A document cut into more pieces than this is dropped whole; 0 drops at the first hit."""

    def __post_init__(self) -> None:
        refuse(
            range_problem("decontaminate.ngram_words", self.ngram_words, 2, 100)
            + range_problem("decontaminate.min_ngram_words", self.min_ngram_words, 2, 100)
            + range_problem("decontaminate.max_documents", self.max_documents, 1)
            + range_problem("decontaminate.margin_characters", self.margin_characters, 0)
            + range_problem("decontaminate.min_piece_characters", self.min_piece_characters, 0)
            + range_problem("decontaminate.max_pieces", self.max_pieces, 0)
            + (
                [
                    f"decontaminate.min_ngram_words={self.min_ngram_words} is above "
                    f"decontaminate.ngram_words={self.ngram_words}"
                ]
                if self.min_ngram_words > self.ngram_words
                else []
            )
        )


@dataclass
class LanguageConfig:
    """Language identification."""

    identify: bool = False
    """Write each document's language (ISO 639-1) to its `language` column."""
    keep: list[str] = field(default_factory=list)
    """Keep only these languages; empty keeps all."""
    min_confidence: float | None = None
    """Least probability of the language found; null: any."""

    def __post_init__(self) -> None:
        problems = range_problem("language.min_confidence", self.min_confidence, 0.0, 1.0)
        problems += [
            f"language.keep: {code!r} is no ISO 639 code, such as en, fr or zh"
            for code in self.keep
            if not (code.isascii() and code.isalpha() and code.islower() and len(code) in (2, 3))
        ]
        if self.keep and not self.identify:
            problems.append(f"language.keep={self.keep} needs language.identify=true")
        if self.min_confidence is not None and not self.identify:
            problems.append(
                f"language.min_confidence={self.min_confidence:g} needs language.identify=true"
            )
        refuse(problems)


@dataclass
class PiiConfig:
    """Personal data in documents."""

    replace_emails: bool = False
    """Replace e-mail addresses by `<email>`."""
    replace_ips: bool = False
    """Replace public IP addresses (version 4 and 6) by `<ip>`."""
    replace_phones: bool = False
    """Replace telephone numbers by `<phone>`."""
    replace_cards: bool = False
    """Replace payment card numbers (with a valid check digit) by `<card>`."""


@dataclass
class FetchConfig:
    """How the pages behind `links` are fetched."""

    cache_dir: str | None = None
    """Where pages are kept, so that nothing is fetched twice; null: `<corpora_dir>/fetched`."""
    user_agent: str = "llmstages (language model corpus; https://pypi.org/project/llmstages)"
    """How the fetcher introduces itself; add an address at which site owners reach you."""
    robots: bool = True
    """Obey each host's robots.txt (RFC 9309), its crawl delay included."""
    delay_seconds: float = 1.0
    """Least time between two requests to one host; there is never more than one connection to it."""
    max_connections: int = 32
    """Hosts fetched from at the same time."""
    timeout_seconds: float = 15.0
    """A server silent for so long is given up."""
    max_seconds: float = 60.0
    """Longest time one page may take, retries not counted."""
    max_bytes: int = 10_000_000
    """Largest page, unpacked; what is larger is left out."""
    max_redirects: int = 5
    """Redirects followed for one page."""
    retries: int = 3
    """Further tries after 429, 5xx, a time-out or a lost connection."""
    backoff_seconds: float = 2.0
    """Wait before the first further try, doubled each time; a server's Retry-After counts instead, up to 60 s."""
    allow_hosts: list[str] = field(default_factory=list)
    """Hosts that may be fetched from although they are private or loopback addresses (`localhost`, `10.0.0.7`, ...)."""
    blocked: list[str] = field(default_factory=list)
    """Domains never fetched from, their subdomains included, or files that list them (plain, or Adblock rules)."""

    def __post_init__(self) -> None:
        refuse(
            range_problem("fetch.delay_seconds", self.delay_seconds, 0.0)
            + range_problem("fetch.max_connections", self.max_connections, 1, 1000)
            + range_problem("fetch.timeout_seconds", self.timeout_seconds, 0.1)
            + range_problem("fetch.max_seconds", self.max_seconds, 0.1)
            + range_problem("fetch.max_bytes", self.max_bytes, 1000)
            + range_problem("fetch.max_redirects", self.max_redirects, 0, 50)
            + range_problem("fetch.retries", self.retries, 0, 20)
            + range_problem("fetch.backoff_seconds", self.backoff_seconds, 0.0)
        )


@dataclass
class EngineConfig:
    """What runs the pipeline: Daft in this process, or on Ray. Both give the same corpus."""

    name: str = "embedded"
    """`embedded` (all cores of this machine) or `ray`."""
    address: str | None = None
    """Address of a Ray cluster (`auto`, `ray://host:10001`), whose machines see the same files; null starts a local one."""
    num_workers: int | None = None
    """Processors of the local Ray cluster; null: one a core."""

    def __post_init__(self) -> None:
        refuse(
            choice_problem("engine.name", self.name, ("embedded", "ray"))
            + range_problem("engine.num_workers", self.num_workers, 1)
        )
