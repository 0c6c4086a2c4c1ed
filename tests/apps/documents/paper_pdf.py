"""A small PDF writer, so that tests know every character's place, font and size."""

import zlib
from dataclasses import dataclass, field
from math import cos, radians, sin

# Widths of Helvetica's printable ASCII, in thousandths of the font size (Adobe's metrics).
HELVETICA = (
    "278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 "
    "556 556 556 278 278 584 584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 "
    "722 778 667 778 722 667 611 722 667 944 667 667 611 278 278 278 469 556 333 556 556 500 556 "
    "556 278 556 556 222 222 500 222 833 556 556 556 556 333 500 278 556 500 722 500 500 500 334 "
    "260 334 584"
)
WIDTHS = {chr(32 + i): int(width) / 1000 for i, width in enumerate(HELVETICA.split())}
FONTS = {"regular": "Helvetica", "bold": "Helvetica-Bold", "mono": "Courier"}


def width_of(text: str, size: float = 10) -> float:
    """Width of text in regular Helvetica."""
    return sum(WIDTHS.get(character, 0.556) for character in text) * size


@dataclass
class Sheet:
    """One page; x and y are measured from the top left corner, y to the baseline."""

    width: float = 595
    height: float = 842
    rotate: int = 0
    crop: tuple[float, float, float, float] | None = None
    content: list[str] = field(default_factory=list)
    image: bool = False

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 10,
        font: str = "regular",
        angle: float = 0,
        stretch: float = 0,
    ) -> None:
        """Put one line; `stretch` is added to every space."""
        a, b = cos(radians(angle)), sin(radians(angle))
        raw = text.encode("cp1252")
        shown = "".join(
            f"\\{byte:03o}" if byte > 126 or byte in b"()\\" else chr(byte) for byte in raw
        )
        self.content.append(
            f"BT /{font} {size} Tf {stretch:.4f} Tw {a:.6f} {b:.6f} {-b:.6f} {a:.6f} "
            f"{x:.3f} {self.height - y:.3f} Tm ({shown}) Tj ET"
        )

    def prose(
        self, x: float, y: float, width: float, text: str, size: float = 10, indent: float = 0
    ) -> float:
        """Put a justified paragraph and return the next free baseline; no word is broken."""
        line: list[str] = []
        room = width - indent
        for word in [*text.split(), ""]:
            too_long = width_of(" ".join([*line, word]), size) > room
            if line and (too_long or not word):
                used = width_of(" ".join(line), size)
                stretch = (room - used) / max(len(line) - 1, 1) if word else 0
                self.text(x + width - room, y, " ".join(line), size, stretch=stretch)
                y, line, room = y + 1.2 * size, [], width
            line.append(word)
        return y


def write_pdf(
    sheets: list[Sheet], title: str = "", encrypt: bool = False, compress: bool = False
) -> bytes:
    """The file's bytes.

    Args:
        sheets: Pages; may be none.
        title: Title in the file's properties.
        encrypt: Whether to claim protection by an unknown password.
        compress: Whether streams are deflated.
    """
    objects: list[bytes] = [b"", b""]  # catalog and page tree come last but are 1 and 2
    fonts = []
    for name, base in FONTS.items():
        objects.append(
            f"<</Type/Font/Subtype/Type1/BaseFont/{base}/Encoding/WinAnsiEncoding>>".encode()
        )
        fonts.append(f"/{name} {len(objects)} 0 R")
    objects.append(
        b"<</Type/XObject/Subtype/Image/Width 2/Height 2/ColorSpace/DeviceGray"
        b"/BitsPerComponent 8/Length 4>>stream\n\x00\xff\xff\x00\nendstream"
    )
    resources = f"<</Font<<{' '.join(fonts)}>>/XObject<</scan {len(objects)} 0 R>>>>"
    kids = []
    for sheet in sheets:
        content = "\n".join(sheet.content)
        if sheet.image:
            content += f"\nq {sheet.width} 0 0 {sheet.height} 0 0 cm /scan Do Q"
        data = zlib.compress(content.encode("latin-1")) if compress else content.encode("latin-1")
        how = "/Filter/FlateDecode" if compress else ""
        objects.append(f"<</Length {len(data)}{how}>>stream\n".encode() + data + b"\nendstream")
        crop = "/CropBox[{} {} {} {}]".format(*sheet.crop) if sheet.crop else ""
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 {sheet.width} {sheet.height}]{crop}"
            f"/Rotate {sheet.rotate}/Resources{resources}/Contents {len(objects)} 0 R>>".encode()
        )
        kids.append(f"{len(objects)} 0 R")
    objects[0] = b"<</Type/Catalog/Pages 2 0 R>>"
    objects[1] = f"<</Type/Pages/Count {len(kids)}/Kids[{' '.join(kids)}]>>".encode()
    objects.append(b"<</Title(" + title.encode("latin-1") + b")>>")
    return _file(objects, encrypt)


def _file(objects: list[bytes], encrypt: bool) -> bytes:
    data = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    data += b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
    more = ""
    if encrypt:
        key = "ab" * 32
        more = f"/ID[<{key}><{key}>]/Encrypt<</Filter/Standard/V 1/R 2/O<{key}>/U<{key}>/P -4>>"
    trailer = f"trailer\n<</Size {len(objects) + 1}/Root 1 0 R/Info {len(objects)} 0 R{more}>>\n"
    return data + trailer.encode() + f"startxref\n{start}\n%%EOF\n".encode()
