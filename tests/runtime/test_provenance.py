"""What belongs to the version of the source."""

from runtime.provenance import hash_source, strip_comments


def test_comments_and_layout_are_not_part_of_the_source_version():
    one = '"""Doc."""\nimport os  # why\n\n\ndef f(x):\n    """Doc."""\n    return (x +\n 1)\n'
    assert strip_comments(one) == strip_comments("import os\ndef f(x): return x + 1")
    assert strip_comments(one) != strip_comments(one.replace("1", "2"))
    assert strip_comments('def f():\n    "Doc."\n') == strip_comments("def f(): pass")
    assert len(hash_source()) == 12
