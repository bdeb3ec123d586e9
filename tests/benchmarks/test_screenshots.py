from pathlib import Path

from benchmarks import screenshots


def test_a_missing_browser_is_told_in_one_line(monkeypatch, tmp_path: Path, refuse) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refuse(screenshots.main, [str(tmp_path), str(tmp_path)]) == (
        "error: no Chromium is here (chromium, chromium-browser, google-chrome, "
        "google-chrome-stable); install one, such as by apt-get install chromium."
    )
