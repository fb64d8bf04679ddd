// Progress on stderr: on a terminal one line, redrawn at most ten times a second, with bytes, rate and time left;
// elsewhere a plain line now and then. It never touches stdout, so results can be piped.
import type { StepDeps } from "../steps/step.ts";
import type { OutputStream, Terminal } from "./terminal.ts";
import { formatBytes, formatDuration } from "./text.ts";

/** Also the least time between two samples of the rate. */
const REDRAW_MS = 100;
/** Lines into a log file are rarer: someone reads them later. */
const PLAIN_LINE_MS = 5000;
/** The rate is that of the last few seconds, so that the time left follows a machine that slows down. */
const RATE_WINDOW_MS = 4000;
const BAR_CELLS = 24;
const COLUMNS_DEFAULT = 80;

export type Progress = {
  /** What is being done now; starts a new count of bytes. `totalBytes` 0: not known, no bar and no time left. */
  begin(label: string, totalBytes: number): void;
  /** Bytes done since `begin`. */
  update(doneBytes: number): void;
  /** A line that stays: printed above the progress line. */
  note(text: string): void;
  /** Takes the progress line away. */
  end(): void;
};

type Sample = { readonly atMs: number; readonly bytes: number };

/** A progress line for this terminal; silent with `--json`, where events are printed instead. */
export function createProgress(terminal: Terminal, options: { readonly silent: boolean }): Progress {
  if (options.silent) return { begin: () => {}, update: () => {}, note: () => {}, end: () => {} };
  const stream = terminal.stderr;
  const isLive = stream.isTTY === true;
  let [label, totalBytes, drawnMs, isDrawn] = ["", 0, Number.NEGATIVE_INFINITY, false];
  let samples: Sample[] = [];
  const clear = () => {
    if (isDrawn) stream.write("\r\x1b[K");
    isDrawn = false;
  };
  return {
    begin(newLabel, newTotal) {
      [label, totalBytes] = [newLabel, newTotal];
      const atMs = terminal.now();
      samples = [{ atMs, bytes: 0 }];
      drawnMs = isLive ? Number.NEGATIVE_INFINITY : atMs;
    },
    update(doneBytes) {
      const atMs = terminal.now();
      if (atMs - (samples.at(-1)?.atMs ?? 0) < REDRAW_MS) return;
      samples = [...samples.filter((sample) => atMs - sample.atMs <= RATE_WINDOW_MS), { atMs, bytes: doneBytes }];
      if (atMs - drawnMs < (isLive ? REDRAW_MS : PLAIN_LINE_MS)) return;
      drawnMs = atMs;
      const line = renderProgress(label, doneBytes, totalBytes, rateOf(samples), isLive);
      if (!isLive) stream.write(`${line}\n`);
      else {
        stream.write(`\r${fit(line, stream)}\x1b[K`);
        isDrawn = true;
      }
    },
    note(text) {
      clear();
      stream.write(`${text}\n`);
    },
    end: clear,
  };
}

/** What a step tells that reads whole checkpoints: how much, and how much it has read. */
export function readingProgress(progress: Progress, label: string): Required<Pick<StepDeps, "begun" | "progress">> {
  return {
    begun: (sourceBytes) => progress.begin(label, sourceBytes),
    progress: ({ bytesRead }) => progress.update(bytesRead),
  };
}

/** `merge  45% [#####-----] 1.20 of 2.70 GB, 512 MB/s, 3 s left`; the bar only on a terminal. */
export function renderProgress(
  label: string,
  doneBytes: number,
  totalBytes: number,
  bytesPerSecond: number,
  withBar: boolean,
): string {
  const rate = bytesPerSecond > 0 ? `, ${formatBytes(bytesPerSecond)}/s` : "";
  if (totalBytes <= 0) return `${label} ${formatBytes(doneBytes)}${rate}`;
  // Sizes are estimates where a method may read its inputs once more.
  const wholeBytes = Math.max(doneBytes, totalBytes);
  const share = doneBytes / wholeBytes;
  const filled = Math.round(share * BAR_CELLS);
  const bar = withBar ? ` [${"#".repeat(filled)}${"-".repeat(BAR_CELLS - filled)}]` : "";
  const leftMs = ((wholeBytes - doneBytes) / bytesPerSecond) * 1000;
  const left = bytesPerSecond > 0 && leftMs > 0 ? `, ${formatDuration(leftMs)} left` : "";
  const percent = `${Math.floor(share * 100)}%`.padStart(4);
  return `${label} ${percent}${bar} ${formatBytes(doneBytes)} of ${formatBytes(wholeBytes)}${rate}${left}`;
}

function rateOf(samples: readonly Sample[]): number {
  const [first, last] = [samples[0], samples.at(-1)];
  if (first === undefined || last === undefined || last.atMs <= first.atMs) return 0;
  return ((last.bytes - first.bytes) / (last.atMs - first.atMs)) * 1000;
}

function fit(line: string, stream: OutputStream): string {
  return line.slice(0, Math.max(20, (stream.columns ?? COLUMNS_DEFAULT) - 1));
}
