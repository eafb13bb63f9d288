"""Hostile PyTorch files, each built byte by byte after a public description, against `verify`.

Every one must be flagged: a finding of at least severity warning, and exit code 1 or 2. picklescan
runs beside it; what it says is printed, not checked. Nothing is ever loaded, and the payloads would
only make a file whose absence is checked in the end.

    malicious_pickles.py            # the checks
    malicious_pickles.py --table    # the table of docs/security.md
    malicious_pickles.py --check    # also that docs/security.md has this very table
"""

import argparse
import io
import json
import logging
import pathlib
import struct
import subprocess
import sys
import zlib

import torch
from picklescan import scanner

from client import PENNYWEIGHT, SOURCE_DIR, check, finish, scratch

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

# --- opcodes -----------------------------------------------------------------------------------


def string(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def integer(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def glob(module, name):
    return f"c{module}\n{name}\n".encode()


def tup(*items):
    return b"(" + b"".join(items) + b"t"


def call(callable_, *arguments):
    return callable_ + tup(*arguments) + b"R"


def dictionary(*items):
    return b"}(" + b"".join(items) + b"u"


def pickled(value, protocol=2):
    return b"\x80" + bytes([protocol]) + value + b"."


def tensor(key="0", legacy=False):
    pid = [string("storage"), glob("torch", "FloatStorage"), string(key), string("cpu"), integer(4)]
    storage = tup(*pid, *([b"N"] if legacy else [])) + b"Q"
    return call(glob("torch._utils", "_rebuild_tensor_v2"), storage, integer(0),
                tup(integer(2), integer(2)), tup(integer(2), integer(1)), b"\x89",
                glob("collections", "OrderedDict") + b")R")


# --- containers --------------------------------------------------------------------------------

DATA = struct.pack("<4f", 1.25, -2.5, 3.75, 0.5)


class Entry:
    def __init__(self, name, data, local_name=None, flags=0, method=0, crc=None, local_crc=None):
        self.name, self.data, self.local_name = name, data, local_name or name
        self.flags, self.method = flags, method
        self.size = len(data)
        self.crc = zlib.crc32(data) if crc is None else crc
        self.local_crc = self.crc if local_crc is None else local_crc
        if method == 8:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            self.data = packer.compress(data) + packer.flush()


def archive(entries, tail=b""):
    out, directory = b"", b""
    for e in entries:
        at = len(out)
        common = struct.pack("<HHHH", e.flags, e.method, 0, 0)
        sizes = struct.pack("<II", len(e.data), e.size)
        local, name = e.local_name.encode(), e.name.encode()
        out += (b"PK\3\4" + struct.pack("<H", 0) + common + struct.pack("<I", e.local_crc) + sizes +
                struct.pack("<HH", len(local), 0) + local + e.data)
        directory += (b"PK\1\2" + struct.pack("<HH", 0, 0) + common + struct.pack("<I", e.crc) +
                      sizes + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, at) + name)
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(out), 0)
    return out + directory + b"PK\5\6" + end + tail


def entries_of(value):
    return [Entry("archive/data.pkl", pickled(value)), Entry("archive/data/0", DATA),
            Entry("archive/version", b"3\n")]


def torch_zip(value, **changes):
    entries = entries_of(value)
    entries[0] = Entry("archive/data.pkl", pickled(value), **changes)
    return archive(entries)


def torch_legacy(value, magic=MAGIC):
    info = dictionary(string("little_endian"), b"\x88")
    return (magic + pickled(integer(1001)) + pickled(info) + pickled(value) +
            pickled(b"](" + string("0") + b"e") + struct.pack("<q", 4) + DATA)


# --- the set -----------------------------------------------------------------------------------


def cases(mark):
    command = f"touch {mark}"
    system = call(glob("posix", "system"), string(command))
    run = call(glob("builtins", "eval"), string(f"open({str(mark)!r}, 'w')"))

    def beside(payload, legacy=False):
        """A state dict that loads, with the payload as one more value."""
        return dictionary(string("w"), tensor(legacy=legacy), string("x"), payload)

    clean = dictionary(string("w"), tensor())
    bad = beside(system)
    stack = (short("po") + b"\x94" + b"0" + short("posix") + b"\x94" + short("system") + b"\x94" +
             b"00h\x01h\x02\x93" + tup(string(command)) + b"R")
    nested = call(glob("torch.storage", "_load_from_bytes"),
                  b"B" + struct.pack("<I", len(torch_legacy(system))) + torch_legacy(system))
    import_os = call(glob("builtins", "__import__"), string("os"))
    chain = call(call(glob("builtins", "getattr"), import_os, string("system")), string(command))
    seven = b"7z\xbc\xaf\x27\x1c\0\4" + bytes(range(64))
    member = call(glob("torch._utils", "_rebuild_tensor_v2"), b"N")
    hidden = entries_of(clean)
    hidden[0] = Entry("archive/data.pkl", pickled(clean) + pickled(system))
    mismatch = entries_of(bad)
    mismatch[0] = Entry("archive/data.pkl", pickled(bad), local_name="archive/data.txt")
    twice = entries_of(clean) + [Entry("archive/data.pkl", pickled(bad))]
    folded = entries_of(clean) + [Entry("archive/DATA.pkl", pickled(bad))]
    subclass = call(glob("torch._tensor", "_rebuild_from_type_v2"), glob("posix", "system"),
                    glob("torch", "Tensor"), tup(string(command)), b"N")
    partial = call(call(glob("functools", "partial"), glob("posix", "system"), string(command)))
    operator = call(call(glob("operator", "methodcaller"), string("system"), string(command)),
                    import_os)
    crc = zlib.crc32(pickled(bad)) ^ 1
    storage_crc = entries_of(clean)
    storage_crc[1] = Entry("archive/data/0", DATA, crc=7)

    def at(module, name):
        return torch_zip(beside(call(glob(module, name), string(command))))

    return [
        ("os.system by REDUCE in a state dict", "pytorch_model.bin", torch_zip(bad)),
        ("the same in a legacy file", "pytorch_model.bin", torch_legacy(beside(system, True))),
        ("result thrown away by POP", "model.pt", torch_zip(system + b"0" + clean)),
        ("STACK_GLOBAL of memoised pieces", "model.pt", torch_zip(beside(stack))),
        ("dotted name: torch.serialization, os.system", "model.pt",
         torch_zip(beside(short("torch.serialization") + short("os.system") + b"\x93" +
                          tup(string(command)) + b"R"))),
        ("builtins.eval", "model.pt", torch_zip(beside(run))),
        ("getattr(__import__('os'), 'system')", "model.pt", torch_zip(beside(chain))),
        ("functools.partial", "model.pt", torch_zip(beside(partial))),
        ("operator.methodcaller", "model.pt", torch_zip(beside(operator))),
        ("INST", "model.pt", torch_zip(beside(b"(" + string(command) + b"iposix\nsystem\n"))),
        ("OBJ", "model.pt", torch_zip(beside(b"(" + glob("posix", "system") + string(command) +
                                             b"o"))),
        ("EXT1 from copyreg's registry", "model.pt", torch_zip(beside(b"\x82\x01" + tup() + b"R"))),
        ("BUILD with a state of globals", "model.pt",
         torch_zip(beside(glob("__main__", "Net") + b")R" +
                          dictionary(string("f"), glob("posix", "system")) + b"b"))),
        ("_rebuild_from_type_v2(os.system, ...)", "model.pt", torch_zip(beside(subclass))),
        ("nested pickle in _load_from_bytes", "model.pt", torch_zip(beside(nested))),
        ("zip flag 0x1 (CVE-2025-1945)", "model.pt", torch_zip(bad, flags=0x1)),
        ("zip flag 0x20", "model.pt", torch_zip(bad, flags=0x20)),
        ("zip flag 0x40", "model.pt", torch_zip(bad, flags=0x40)),
        ("wrong CRC of data.pkl (CVE-2025-10156)", "model.pt", torch_zip(bad, crc=crc)),
        ("wrong CRC of a storage", "model.pt", archive(storage_crc)),
        ("local name is not the directory's (CVE-2025-1944)", "model.pt", archive(mismatch)),
        ("data.pkl twice", "model.pt", archive(twice)),
        ("data.pkl and DATA.pkl", "model.pt", archive(folded)),
        ("deflated data.pkl", "model.pt", torch_zip(bad, method=8)),
        ("bytes behind the archive", "model.pt", archive(entries_of(bad), b"\0" * 9)),
        ("bytes in front of the archive", "model.pt", b"PK\3\4junk" + torch_zip(bad)),
        ("second pickle behind STOP in data.pkl", "model.pt", archive(hidden)),
        ("another pickle in the archive", "model.pt",
         archive(entries_of(clean) + [Entry("archive/extra/hook.pkl", pickled(system))])),
        ("the same without its ending", "model.pt",
         archive(entries_of(clean) + [Entry("archive/extra/hook", pickled(system))])),
        ("7z named .bin (nullifAI)", "pytorch_model.bin", seven),
        ("bare pickle named .bin (CVE-2025-10155)", "pytorch_model.bin", pickled(system)),
        ("bare pickle of protocol 0", "pytorch_model.bin",
         b"cposix\nsystem\n(S'" + command.encode() + b"'\ntR."),
        ("bare pickle of an unknown ending (CVE-2025-1889)", "weights.dat", pickled(system)),
        ("legacy magic computed by eval", "model.pt",
         torch_legacy(dictionary(string("w"), tensor(legacy=True)), magic=pickled(run))),
        ("payload, then cut short", "model.pt", pickled(system)[:-1] + b"0}(X\xff\xff"),
        ("cut short inside of an archive", "model.pt",
         archive([Entry("archive/data.pkl", b"\x80\x02" + system + b"0}("),
                  Entry("archive/version", b"3\n")])),
        ("memo used before it is set", "model.pt", torch_zip(system + b"0h\x63")),
        ("asyncio.unix_events (CVE-2025-10157)", "model.pt",
         at("asyncio.unix_events", "_UnixSubprocessTransport._start")),
        ("pip.main (CVE-2025-1716)", "model.pt", at("pip", "main")),
        ("numpy.testing", "model.pt", at("numpy.testing._private.utils", "runstring")),
        ("torch.utils.bottleneck", "model.pt", at("torch.utils.bottleneck.__main__",
                                                  "run_cprofile")),
        ("torch.load from a pickle", "model.pt", at("torch", "load")),
        ("runpy", "model.pt", at("runpy", "_run_code")),
        ("ssl.get_server_certificate", "model.pt", at("ssl", "get_server_certificate")),
        ("logging.FileHandler", "model.pt", at("logging", "FileHandler")),
        ("timeit", "model.pt", at("timeit", "timeit")),
        ("doctest.debug_script", "model.pt", at("doctest", "debug_script")),
        ("cProfile.run", "model.pt", at("cProfile", "run")),
        ("idlelib", "model.pt", at("idlelib.pyshell", "ModifiedInterpreter.runcommand")),
        ("lib2to3", "model.pt", at("lib2to3.pgen2.pgen", "ParserGenerator.make_label")),
        ("a function that no list has", "model.pt", at("acme_training", "load_hook")),
        ("_rebuild_tensor_v2 without arguments", "model.pt", torch_zip(beside(member))),
        ("a storage shorter than its tensor (CVE-2026-24747)", "model.pt",
         archive([Entry("archive/data.pkl", pickled(clean)), Entry("archive/data/0", DATA[:8]),
                  Entry("archive/version", b"3\n")])),
        ("bytes behind the storages of a legacy file", "model.pt",
         torch_legacy(dictionary(string("w"), tensor(legacy=True))) + pickled(system)),
        ("a module pickled whole", "model.pt",
         torch_zip(glob("torch.nn.modules.linear", "Linear") + b")\x81" +
                   dictionary(string("_parameters"), dictionary(string("w"), tensor()),
                              string("_modules"), dictionary()) + b"b")),
        ("TorchScript code in the archive", "model.pt",
         archive(entries_of(clean) + [Entry("archive/code/__torch__.py", b"op_version_set = 1\n")])),
        ("PERSID", "model.pt", torch_zip(beside(b"Pos.system\n"))),
        ("payload in training_args.bin beside good weights", "folder/training_args.bin",
         torch_zip(bad)),
    ], torch_zip(clean)


# --- running -----------------------------------------------------------------------------------


def verify(path):
    done = subprocess.run([PENNYWEIGHT, "verify", str(path), "--json"], capture_output=True,
                          text=True)
    document = json.loads(done.stdout)
    return done.returncode, document.get("result", {}).get("findings", []), document.get("error")


def picklescan(path):
    try:
        result = scanner.scan_file_path(str(path))
    except Exception:  # it raises for what it cannot read, 7z without its extra package among it
        return "error"
    if result.infected_files > 0 or result.issues_count > 0:
        return "dangerous"
    if result.scan_err:
        return "error"
    return "suspicious" if result.suspicious_count > 0 else "clean"


def rules_of(findings):
    loud = [f for f in findings if f["severity"] != "note"]
    return ", ".join(dict.fromkeys(f["rule"] for f in loud))


def table_of(rows):
    lines = ["| file | `verify` | exit | picklescan 1.0.5 |", "|---|---|---|---|"]
    lines += [f"| {name} | {rules} | {code} | {theirs} |" for name, code, rules, theirs in rows]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    rows = []
    with scratch() as folder:
        folder = pathlib.Path(folder)
        mark = folder / "PAYLOAD_RAN"
        hostile, clean = cases(mark)
        for number, (name, file_name, content) in enumerate(hostile):
            path = folder / f"case{number}" / file_name
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            target = path
            if file_name.startswith("folder/"):
                target = path.parent
                (target / "model.safetensors").write_bytes(
                    (SOURCE_DIR / "testdata/pd-llama-4M/model.safetensors").read_bytes())
            code, findings, error = verify(target)
            rows.append((name, code, rules_of(findings), picklescan(path)))
            if options.table:
                continue
            check(code in (1, 2) and rules_of(findings),
                  f"{name}: exit {code}, {rules_of(findings) or 'NO FINDING'}; picklescan: "
                  f"{rows[-1][3]}")
            if error is not None:
                check(code == (1 if "PKL-MALICIOUS" in rules_of(findings) else 2),
                      f"{name}: unreadable, and exit {code} says whether it is malicious")
        good = folder / "good.pt"
        good.write_bytes(clean)
        code, findings, _ = verify(good)
        ran = mark.exists()
    if options.table:
        print(table_of(rows), end="")
        sys.exit(0)
    weights = torch.load(io.BytesIO(clean), weights_only=True)["w"]
    check(weights.tolist() == [[1.25, -2.5], [3.75, 0.5]], "torch loads the harmless checkpoint")
    check(code == 0 and not findings, f"a harmless checkpoint is clean: exit {code}")
    check(not ran, "no payload ran")
    if options.check:
        docs = (SOURCE_DIR / "docs/security.md").read_text()
        check(table_of(rows) in docs, "docs/security.md has this table (malicious_pickles.py --table)")
    finish()


if __name__ == "__main__":
    main()
