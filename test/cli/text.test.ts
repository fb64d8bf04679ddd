import assert from "node:assert/strict";
import test from "node:test";
import { formatBytes, formatCount, formatDuration, formatMemory, parseBytes, renderTable } from "../../cli/text.ts";

test("bytes are shown with three significant digits and never as 1000 of a unit", () => {
  const cases: [number, string][] = [
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.00 kB"],
    [999_499, "999 kB"],
    [999_500, "1.00 MB"],
    [1_710_368, "1.71 MB"],
    [2_700_000_000, "2.70 GB"],
    [99_960_000_000, "100 GB"],
    [9_996_000_000, "10.0 GB"],
  ];
  for (const [bytes, text] of cases) assert.equal(formatBytes(bytes), text);
});

test("memory is shown in whole MiB, rounded up", () => {
  assert.equal(formatMemory(512 * 2 ** 20), "512 MiB");
  assert.equal(formatMemory(1), "1 MiB");
});

test("counts are grouped by thousands", () => {
  assert.equal(formatCount(853120), "853 120");
  assert.equal(formatCount(999), "999");
  assert.equal(formatCount(1_000_000), "1 000 000");
});

test("durations carry over into the next unit", () => {
  const cases: [number, string][] = [
    [49, "0.0 s"],
    [9_949, "9.9 s"],
    [9_951, "10 s"],
    [59_499, "59 s"],
    [59_600, "1 min 00 s"],
    [200_000, "3 min 20 s"],
    [3_599_600, "1 h 00 min"],
    [7_500_000, "2 h 05 min"],
  ];
  for (const [milliseconds, text] of cases) assert.equal(formatDuration(milliseconds), text);
});

test("sizes are read in decimal and binary units, and anything else is refused", () => {
  assert.equal(parseBytes("1048576"), 2 ** 20);
  assert.equal(parseBytes("512MiB"), 2 ** 29);
  assert.equal(parseBytes("2G"), 2e9);
  assert.equal(parseBytes("1.5 gib"), 1.5 * 2 ** 30);
  for (const text of ["", "0", "-1", "12 parsecs", "1e9", "NaN", "99999999TiB", "1..5G"]) {
    assert.equal(parseBytes(text), undefined, text);
  }
});

test("a table lines its columns up and ends no line with spaces", () => {
  const table = renderTable(
    [
      { title: "name", align: "left" },
      { title: "bytes", align: "right" },
      { title: "note", align: "left" },
    ],
    [
      ["a", "1", ""],
      ["longer", "1000", "x"],
    ],
  );
  assert.deepEqual(table.split("\n"), ["name    bytes  note", "a           1", "longer   1000  x"]);
});
