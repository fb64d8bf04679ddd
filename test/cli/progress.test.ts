import assert from "node:assert/strict";
import test from "node:test";
import { createProgress, renderProgress } from "../../cli/progress.ts";
import { createRecorder } from "./recorder.ts";

test("a progress line shows share, bytes, rate and time left", () => {
  assert.equal(
    renderProgress("merge", 1.2e9, 2.7e9, 5e8, true),
    "merge  44% [###########-------------] 1.20 GB of 2.70 GB, 500 MB/s, 3.0 s left",
  );
  assert.equal(renderProgress("merge", 0, 2.7e9, 0, false), "merge   0% 0 B of 2.70 GB");
  assert.equal(renderProgress("read", 5e6, 0, 1e6, true), "read 5.00 MB, 1.00 MB/s");
});

test("more bytes than announced never shows more than all of them", () => {
  assert.equal(renderProgress("merge", 30, 20, 1, true), `merge 100% [${"#".repeat(24)}] 30 B of 30 B, 1 B/s`);
});

test("on a terminal the line is redrawn in place, at most ten times a second, and taken away at the end", () => {
  const terminal = createRecorder({ isTTY: true, columns: 40 });
  const progress = createProgress(terminal, { silent: false });
  progress.begin("merge", 1000);
  for (let step = 1; step <= 100; step += 1) {
    terminal.advance(10);
    progress.update(step * 10);
  }
  progress.end();
  const draws = terminal
    .err()
    .split("\r")
    .filter((part) => part.startsWith("merge"));
  assert.ok(draws.length >= 9 && draws.length <= 11, `${draws.length} draws`);
  assert.ok(draws.every((draw) => draw.replace("\x1b[K", "").length < 40));
  assert.ok(terminal.err().endsWith("\r\x1b[K"));
  assert.ok(!terminal.err().includes("\n"));
  assert.equal(terminal.out(), "");
});

test("elsewhere it is a plain line every five seconds, without control characters", () => {
  const terminal = createRecorder({ isTTY: false });
  const progress = createProgress(terminal, { silent: false });
  progress.begin("merge", 12_000);
  for (let second = 1; second <= 12; second += 1) {
    terminal.advance(1000);
    progress.update(second * 1000);
  }
  progress.note("done");
  progress.end();
  const lines = terminal.err().trimEnd().split("\n");
  assert.deepEqual(lines, [
    "merge  41% 5.00 kB of 12.0 kB, 1.00 kB/s, 7.0 s left",
    "merge  83% 10.0 kB of 12.0 kB, 1.00 kB/s, 2.0 s left",
    "done",
  ]);
});

test("a note stays above the progress line", () => {
  const terminal = createRecorder({ isTTY: true });
  const progress = createProgress(terminal, { silent: false });
  progress.begin("merge", 10);
  terminal.advance(200);
  progress.update(1);
  progress.note("file 1 done");
  progress.end();
  assert.ok(terminal.err().startsWith("\rmerge"));
  assert.ok(terminal.err().endsWith("\x1b[K\r\x1b[Kfile 1 done\n"));
});

test("the rate is that of the last seconds, not of the whole run", () => {
  // Goal: the time left follows a machine that slows down. Method: 10 s at 1 MB/s, then 10 s at 100 kB/s.
  const terminal = createRecorder({ isTTY: true });
  const progress = createProgress(terminal, { silent: false });
  progress.begin("merge", 100e6);
  let done = 0;
  for (const bytesPerSecond of [1e6, 1e5]) {
    for (let second = 0; second < 10; second += 1) {
      terminal.advance(1000);
      done += bytesPerSecond;
      progress.update(done);
    }
  }
  assert.match(terminal.err().split("\r").at(-1) ?? "", /, 100 kB\/s,/);
});

test("with --json nothing is written", () => {
  const terminal = createRecorder({ isTTY: true });
  const progress = createProgress(terminal, { silent: true });
  progress.begin("merge", 10);
  progress.update(1);
  progress.note("done");
  progress.end();
  assert.equal(terminal.err() + terminal.out(), "");
});
