"""The command: a line in, a line out; errors in one line; the process as a user sees it."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest
import tiny_bundle
from command_line import exit_code
from server_process import ROOT, command

from kserve import Translator

HUND = "Ein Hund rennt über die Wiese."
BUNDLE = str(tiny_bundle.bundle_folder())


def run(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(*arguments), cwd=ROOT, input=data, capture_output=True, timeout=120)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line of the error of a command run in this process."""
    code = exit_code(*arguments)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    return code, shown.err


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator(BUNDLE, threads=1)


def test_arguments_are_texts(translator: Translator) -> None:
    done = run("translate", "-m", BUNDLE, HUND, "😀")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"{translator.translate(HUND).text}\n😀\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n\n",
        b"Ein Hund",
        b"Ein Hund\n",
        b"Ein Hund\r\nZwei Kinder\r\n",
        b"Ein\0Hund\n\x0b\x0c\n\xe2\x80\xa8Hund\n",
        b"Hund\n" * 3000,
        b"Hund " * 20_000 + b"\nEnde",
    ],
    ids=["nothing", "empty-line", "empty-lines", "no-end", "end", "crlf", "controls", "many", "long"],
)
def test_a_line_in_is_a_line_out(
    data: bytes, translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kserve.lines import LineTranslator

    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        assert LineTranslator(translator, {"beam_size": 1}).run(source, sink) == 0
    out = (tmp_path / "out").read_bytes()
    assert out.count(b"\n") == data.count(b"\n")
    assert out.endswith(b"\n") == data.endswith(b"\n")
    assert out.count(b"\r") == data.count(b"\r")


def test_stdin_to_stdout_with_bytes_that_are_not_utf8(translator: Translator) -> None:
    done = run("translate", "-m", BUNDLE, "--beam", "1", data=b"\xff\xfe\n" + HUND.encode() + b"\n")
    assert done.returncode == 0
    assert done.stdout.decode() == "\ufffd\ufffd\n" + translator.translate(HUND, beam_size=1).text + "\n"
    assert done.stderr.decode() == "kserve: 1 lines held bytes that are not UTF-8; they were read as U+FFFD\n"


def test_a_slow_writer_is_answered_at_once() -> None:
    with subprocess.Popen(
        command("translate", "-m", BUNDLE), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        for _ in range(2):
            process.stdin.write(HUND.encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().strip()
        process.stdin.close()
        assert process.stdout.read() == b""


def test_json_holds_all_hypotheses(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert exit_code("translate", "-m", BUNDLE, "--json", "--n-best", "3", HUND) == 0
    told = json.loads(capsysbinary.readouterr().out)
    assert told["source"] == HUND
    assert len(told["hypotheses"]) == 3
    assert told["hypotheses"][0]["text"] == told["text"]


def test_options_of_decoding_reach_the_engine(
    capsysbinary: pytest.CaptureFixture[bytes], translator: Translator
) -> None:
    options = ["--prefix", "The dog", "--min-length", "9", "--no-repeat-ngram", "1", "--beam", "3"]
    assert exit_code("translate", "-m", BUNDLE, *options, HUND) == 0
    wanted = translator.translate(HUND, prefix="The dog", min_length=9, no_repeat_ngram=1, beam_size=3)
    assert capsysbinary.readouterr().out.decode() == wanted.text + "\n"
    assert wanted.text.startswith("The dog")


def test_a_file_is_translated_beside_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = tmp_path / "brief.html"
    source.write_text(f"<p>Ein <b>Hund</b> rennt.</p>\n<pre>{HUND}</pre>")
    assert exit_code("translate", "-m", BUNDLE, "--file", str(source)) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'brief.en.html'}\n"
    found = (tmp_path / "brief.en.html").read_text()
    assert found.count("<b>") == 1
    assert found.endswith(f"</p>\n<pre>{HUND}</pre>")
    code, error = fails(capsys, "translate", "-m", BUNDLE, "-f", str(tmp_path / "brief.exe"))
    assert (code, "cannot read" in error) == (2, True)
    (tmp_path / "brief.exe").write_text("x")
    code, error = fails(capsys, "translate", "-m", BUNDLE, "-f", str(tmp_path / "brief.exe"))
    assert (code, "must end in" in error) == (2, True)


def test_settings_are_printed_and_keys_are_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert exit_code("serve", "--max-texts", "7", "--port", "0", "--print-config") == 0
    shown = capsys.readouterr().out
    assert "# texts in one request\nKSERVE_MAX_TEXTS=7\n" in shown
    assert fails(capsys, "serve", "--colour", "red")[0] == 2
    assert exit_code("key", "one", "--file", str(tmp_path / "keys")) == 0
    key = capsys.readouterr().out.strip()
    assert len(key) > 30
    assert key not in (tmp_path / "keys").read_text()
    assert fails(capsys, "key", "one", "--file", str(tmp_path / "keys"))[0] == 2


def test_info_for_a_person_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("info", BUNDLE) == 0
    table = capsys.readouterr().out
    assert "German → English" in table
    assert "where a dense twin has" in table
    assert "1 × 1 squares of 32, passes of radix 2 with" in table
    assert exit_code("info", BUNDLE, "--json", "--isa", "scalar") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["engine"]["isa"] == "scalar"
    assert facts["parameters"]["linear"] < facts["parameters"]["linear_dense"]
    query = next(layer for layer in facts["engine"]["layers"] if "decoder.query" in layer["sites"])
    assert (query["square"], query["passes"]) == (32, [{"radix": 2, "rows_together": 1}])


def test_eval_scores_and_writes_json(tmp_path: Path, translator: Translator) -> None:
    sources = [HUND, "Wo ist der nächste Bahnhof?", "Zwei Kinder spielen im Garten mit einem Ball."]
    answers = [translator.translate(text, beam_size=1).text for text in sources]
    (tmp_path / "src").write_text("\n".join(sources) + "\n")
    (tmp_path / "ref").write_text("\n".join(answers) + "\n")
    out = tmp_path / "score.json"
    files = ["--src", str(tmp_path / "src"), "--ref", str(tmp_path / "ref")]
    done = run("eval", "--bundle", BUNDLE, *files, "--beam", "1", "--json", str(out))
    assert done.returncode == 0, done.stderr
    told = json.loads(out.read_text())
    assert told["bleu"] == pytest.approx(100)
    assert told["chrf"] == pytest.approx(100)
    assert told["ter"] == 0
    assert told["signature"].startswith("nrefs:1|case:mixed")
    assert told["sentences"] == 3
    assert told["sentences_per_second"] > 0
    assert b"BLEU 100.00" in done.stdout


def test_eval_of_files_of_different_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "src").write_text("a\nb\n")
    (tmp_path / "ref").write_text("a\n")
    files = ["--src", str(tmp_path / "src"), "--ref", str(tmp_path / "ref")]
    code, error = fails(capsys, "eval", "--bundle", BUNDLE, *files)
    assert code == 2
    assert "src has 2 lines" in error
    assert "ref has 1" in error


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fails(capsys, "translate", "-m", str(tmp_path / "nowhere"), "Hund")[0] == 1
    assert fails(capsys, "info", str(tmp_path))[0] == 1
    code, error = fails(capsys, "translate", "-m", BUNDLE, "--isa", "sse9", "Hund")
    assert code == 2
    assert "use one of" in error
    code, error = fails(capsys, "translate", "-m", BUNDLE, "--n-best", "2", "Hund")
    assert code == 2
    assert "--json" in error
    code, error = fails(capsys, "translate", "-m", BUNDLE, "--beam", "0", "Hund")
    assert code == 2
    assert "beam_size is 0" in error
    code, error = fails(capsys, "translate", "-m", BUNDLE, "--loop-guard", "1", "Hund")
    assert code == 2
    assert "loop_guard is 1" in error
    code, error = fails(capsys, "translate", "-m", BUNDLE, "--suppress", "不", "Hund")
    assert code == 2
    assert "suppress holds '不'" in error
    code, error = fails(capsys, "serve", "-m", BUNDLE, "--port", "99999")
    assert code == 2
    assert "KSERVE_PORT" in error
    code, error = fails(
        capsys, "eval", "-m", BUNDLE, "--src", str(tmp_path / "no"), "--ref", str(tmp_path / "no")
    )
    assert code == 2
    assert "cannot read" in error


def test_the_port_in_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, error = fails(capsys, "serve", "-m", BUNDLE, "--port", str(port))
    assert code == 1
    assert f"port {port} on 127.0.0.1 is in use" in error


def test_an_address_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = fails(capsys, "serve", "-m", BUNDLE, "--host", "203.0.113.7")
    assert code == 2
    assert "cannot listen on 203.0.113.7" in error


def test_a_broken_model_is_refused_before_any_request(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tiny_bundle.copy_to(tmp_path / "model")
    (path / "tokenizer.model").unlink()
    code, error = fails(capsys, "serve", "-m", str(path), "--port", "0")
    assert code == 1
    assert "tokenizer.model is missing" in error
