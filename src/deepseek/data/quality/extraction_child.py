"""The program that extracts the text of HTML and PDF files, in a process of its own.

It is run as a file and imports nothing of the package that takes time. It reads one JSON object a
line and answers each with one line; `extraction.py` is its other end.
"""

import json
import sys

from deepseek.core.answering import limit_memory, limit_time, reply

MEMORY_BYTES = 3 << 30
MAX_PAGES = 5_000


def main() -> None:
    """Limit the process, extract until the input ends."""
    limit_memory(MEMORY_BYTES)
    reply({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        limit_time(request["seconds"])
        extract = {"html": html_text, "pdf": pdf_text}[request["kind"]]
        answer = {"text": "", "title": "", "error": ""}
        try:
            text, answer["title"] = extract(request["path"])
            size = len(text.encode("utf-8", "replace"))
            if size > request["max_bytes"]:
                answer["error"] = f"a text of {size:,} bytes is too much"
            else:
                answer["text"] = text
        except Exception as error:  # whatever a damaged file causes is said of that file
            answer["error"] = f"{type(error).__name__}: {error}"[:300]
        reply(answer)


def html_text(path: str) -> tuple[str, str]:
    """The main text of a page, without navigation, and its title."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    from resiliparse.parse.html import HTMLTree

    with open(path, "rb") as file:
        data = file.read()
    try:
        page = data.decode("utf-8")
    except UnicodeDecodeError:
        page = bytes_to_str(data, detect_encoding(data) or "latin-1")
    tree = HTMLTree.parse(page)
    text = extract_plain_text(tree, main_content=True, alt_texts=False)
    return text, (tree.title or "")[:1_000]


def pdf_text(path: str) -> tuple[str, str]:
    """The text of all pages, an empty line between two, and the title that the file names."""
    import pypdfium2 as pdfium

    document = pdfium.PdfDocument(path)
    if len(document) > MAX_PAGES:
        raise ValueError(f"{len(document):,} pages are too many")
    pages = []
    for page in document:
        text_page = page.get_textpage()
        pages.append(text_page.get_text_bounded().replace("\r\n", "\n").strip())
        text_page.close()
        page.close()
    title = str(document.get_metadata_value("Title") or "")[:1_000]
    text = "\n\n".join(filter(None, pages))
    # PDFium gives the hyphen of a broken word as U+FFFE, and half characters of damaged fonts.
    text = text.replace("\ufffe\n", "").replace("\ufffe", "-")
    return text.encode("utf-8", "replace").decode(), title.encode("utf-8", "replace").decode()


if __name__ == "__main__":
    main()
