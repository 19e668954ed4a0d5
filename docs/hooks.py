"""MkDocs hook: links that leave ``docs/`` in the repository point to their copies on the site (see ``generate.py``)."""

import re


def on_page_markdown(markdown, page, config, files):
    """Rewrite links to ``reports/`` and ``medood/detectors/``, one folder higher in the repository than on the site."""
    depth = page.file.src_uri.count("/")
    if page.file.src_uri.startswith(("reports/", "detectors/")):
        return re.sub(r"\]\(((?:\.\./)+)(?:docs/|medood/(?=detectors/))", r"](\1", markdown)
    root = "../" * depth
    return re.sub(r"\]\((?:\.\./)+(?:medood/(?=detectors/)|(?=reports/))", f"]({root}", markdown)
