"""Names that mean something in wikitext, in the larger languages.

Namespaces come from the dump itself; here are the names that no dump tells.
"""

MEDIA_ALIASES = frozenset(
    (
        *("file", "image", "media", "bild", "datei", "fichier", "archivo", "imagen", "immagine"),
        *("bestand", "afbeelding", "plik", "grafika", "ficheiro", "imagem", "файл", "изображение"),
        *("картинка", "зображення", "fil", "billede", "kuva", "tiedosto", "soubor", "kép", "fájl"),
        *("dosya", "resim", "hình", "tập tin", "berkas", "gambar", "ファイル", "画像", "文件"),
        *("檔案", "图像", "파일", "그림", "ملف", "صورة", "پرونده", "קובץ", "תמונה", "चित्र"),
    )
)
"""Prefixes of pictures, old ones included."""

DISAMBIGUATION = frozenset(
    (
        *("disambig", "disambiguation", "dab", "hndis", "geodis", "disamb", "human name disambig"),
        *("place name disambiguation", "begriffsklärung", "homonymie", "paronymie", "patronyme"),
        *("desambiguación", "desambiguacion", "disambigua", "desambiguação", "desambig", "dp"),
        *(
            "doorverwijspagina",
            "ujednoznacznienie",
            "неоднозначность",
            "disambig ru",
            "багатозначність",
        ),
        *(
            "пояснение",
            "förgrening",
            "grensida",
            "rozcestník",
            "anlam ayrımı",
            "định hướng",
            "disambigs",
        ),
        *(
            "aimai",
            "曖昧さ回避",
            "消歧义",
            "消歧義",
            "동음이의",
            "توضيح",
            "ابهام‌زدایی",
            "פירושונים",
        ),
    )
)
"""Templates that mark a page as a list of meanings."""

APPENDED_SECTIONS = frozenset(
    (
        # English
        *("see also", "references", "external links", "further reading", "notes", "bibliography"),
        *("footnotes", "sources", "citations", "notes and references", "references and notes"),
        *(
            "works cited",
            "external link",
            "general references",
            "cited sources",
            "explanatory notes",
        ),
        # German, Dutch, Scandinavian
        *("siehe auch", "weblinks", "literatur", "einzelnachweise", "quellen", "anmerkungen"),
        *(
            "zie ook",
            "externe links",
            "externe link",
            "referenties",
            "bronnen",
            "noten",
            "literatuur",
        ),
        *("se även", "referenser", "källor", "externa länkar", "noter", "se også", "referanser"),
        *("eksterne henvisninger", "eksterne lenker", "kilder", "kirjallisuutta", "lähteet"),
        # French, Spanish, Italian, Portuguese, Catalan
        *("voir aussi", "références", "notes et références", "liens externes", "lien externe"),
        *("bibliographie", "annexes", "articles connexes", "véase también", "referencias"),
        *("enlaces externos", "bibliografía", "notas", "voci correlate", "collegamenti esterni"),
        *(
            "note",
            "altri progetti",
            "bibliografia",
            "ver também",
            "referências",
            "ligações externas",
        ),
        *("vegeu també", "referències", "enllaços externs", "notas e referências"),
        # Polish, Czech, Russian, Ukrainian, Bulgarian, Serbian
        *("zobacz też", "przypisy", "linki zewnętrzne", "uwagi", "související články", "reference"),
        *("externí odkazy", "literatura", "poznámky", "см. также", "примечания", "ссылки"),
        *(
            "литература",
            "источники",
            "див. також",
            "примітки",
            "посилання",
            "література",
            "джерела",
        ),
        *("вижте също", "външни препратки", "бележки", "бележки и източници", "външни връзки"),
        *("види још", "референце", "спољашње везе"),
        # Turkish, Vietnamese, Indonesian, Hungarian
        *(
            "ayrıca bakınız",
            "kaynakça",
            "dış bağlantılar",
            "xem thêm",
            "tham khảo",
            "liên kết ngoài",
        ),
        *("chú thích", "lihat pula", "referensi", "pranala luar", "források", "jegyzetek"),
        *("további információk",),
        # Japanese, Chinese, Korean, Arabic, Persian, Hebrew, Hindi
        *("関連項目", "脚注", "外部リンク", "参考文献", "出典", "注釈", "参见", "參見", "外部链接"),
        *("外部連結", "注释", "注釋", "參考資料", "参考资料", "參考文獻", "相关条目", "相關條目"),
        *(
            "같이 보기",
            "각주",
            "외부 링크",
            "참고 문헌",
            "انظر أيضا",
            "انظر أيضًا",
            "مراجع",
            "المراجع",
        ),
        *("وصلات خارجية", "جستارهای وابسته", "منابع", "پیوند به بیرون", "ראו גם", "הערות שוליים"),
        *("קישורים חיצוניים", "इन्हें भी देखें", "सन्दर्भ", "बाहरी कड़ियाँ"),
    )
)
"""Headings of sections that hold lists of links and sources, not prose; in lower case."""
