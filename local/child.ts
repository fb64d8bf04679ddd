// One attempt of a job as a child process: its environment, its output, its end. What the end means is batch.ts's
// matter.
import { type ChildProcess, spawn } from "node:child_process";
import type { Readable } from "node:stream";
import type { Clock } from "./asl/clock.ts";

/** Executable and its arguments. */
export type Command = readonly [string, ...string[]];

export type ChildOptions = {
  readonly command: Command;
  /** The child's whole environment. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Aborted: the child gets SIGTERM, and SIGKILL when it is still there after `killAfterMs`. */
  readonly signal: AbortSignal;
  readonly killAfterMs: number;
  /** The child is stopped in the same way when it takes longer; never when undefined. */
  readonly timeoutMs: number | undefined;
  readonly clock: Clock;
  readonly onStart: (pid: number) => void;
  /** One line of standard output, without its end. */
  readonly onLine: (line: string) => void;
};

/** Exactly one of `exitCode`, `signal` and `startError` says how the child ended. */
export type ChildEnd = {
  readonly exitCode: number | undefined;
  readonly signal: NodeJS.Signals | undefined;
  readonly startError: string | undefined;
  readonly timedOut: boolean;
  /** The last part of what it wrote to standard error. */
  readonly stderr: string;
};

/** Characters of standard error that are kept. */
const STDERR_CHARACTERS_MAX = 8192;
/** Characters of one line of standard output; the rest of a longer line is dropped. */
const LINE_CHARACTERS_MAX = 1_048_576;

/**
 * Runs a child to its end; never rejects. Its standard input is a pipe that stays open as long as this process lives:
 * a child that watches it (MERGEYARD_PARENT_PIPE) ends when this process does, however that happens.
 */
export async function runChild(options: ChildOptions): Promise<ChildEnd> {
  const [executable, ...args] = options.command;
  const child = spawn(executable, args, {
    env: { ...options.environment, MERGEYARD_PARENT_PIPE: "1" },
    stdio: ["pipe", "pipe", "pipe"],
  });
  if (child.pid !== undefined) options.onStart(child.pid);
  // Nothing is ever written; a child that closes its end is no fault.
  child.stdin.on("error", () => undefined);
  readLines(child.stdout, options.onLine);
  const stderr = keepTail(child.stderr);
  const stop = createStop(child, options);
  const timeout =
    options.timeoutMs === undefined ? () => undefined : options.clock.after(options.timeoutMs, () => stop.now("late"));
  const onAbort = (): void => stop.now("cancelled");
  if (options.signal.aborted) onAbort();
  options.signal.addEventListener("abort", onAbort, { once: true });
  const end = await childEnd(child);
  timeout();
  stop.clear();
  options.signal.removeEventListener("abort", onAbort);
  return { ...end, timedOut: stop.why() === "late", stderr: stderr() };
}

/** Resolves when the child has ended and its output was read to the end. */
function childEnd(child: ChildProcess): Promise<Pick<ChildEnd, "exitCode" | "signal" | "startError">> {
  return new Promise((resolve) => {
    child.once("error", (error) => {
      // Also raised when a signal cannot be delivered; only a child that never started has no process id.
      if (child.pid === undefined) resolve({ exitCode: undefined, signal: undefined, startError: error.message });
    });
    child.once("close", (exitCode, signal) =>
      resolve({ exitCode: exitCode ?? undefined, signal: signal ?? undefined, startError: undefined }),
    );
  });
}

type StopReason = "late" | "cancelled";

/** SIGTERM at first, SIGKILL when that did not help in time. */
function createStop(child: ChildProcess, { clock, killAfterMs }: ChildOptions) {
  let reason: StopReason | undefined;
  let cancelKill: () => void = () => undefined;
  return {
    now: (why: StopReason): void => {
      if (reason !== undefined) return;
      reason = why;
      child.kill("SIGTERM");
      cancelKill = clock.after(killAfterMs, () => void child.kill("SIGKILL"));
    },
    why: () => reason,
    clear: () => cancelKill(),
  };
}

function readLines(stream: Readable, onLine: (line: string) => void): void {
  let line = "";
  stream.setEncoding("utf8");
  stream.on("data", (text: string) => {
    const parts = text.split("\n");
    const last = parts.pop() ?? "";
    for (const part of parts) {
      onLine(bounded(line, part));
      line = "";
    }
    line = bounded(line, last);
  });
  stream.on("end", () => {
    if (line !== "") onLine(line);
  });
}

function bounded(line: string, more: string): string {
  return line + more.slice(0, LINE_CHARACTERS_MAX - line.length);
}

function keepTail(stream: Readable): () => string {
  let tail = "";
  stream.setEncoding("utf8");
  stream.on("data", (text: string) => {
    tail = (tail + text).slice(-STDERR_CHARACTERS_MAX);
  });
  return () => tail;
}
