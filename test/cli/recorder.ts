// A terminal for tests: remembers what was written, has a clock that the test moves, and never touches the process.
import type { OutputStream, Terminal } from "../../cli/terminal.ts";

export type Recorder = Terminal & {
  readonly out: () => string;
  readonly err: () => string;
  advance(milliseconds: number): void;
  interrupt(reason?: unknown): void;
};

export function createRecorder(options: { cwd?: string; isTTY?: boolean; columns?: number } = {}): Recorder {
  const [out, err]: [string[], string[]] = [[], []];
  const interruption = new AbortController();
  let now = 1_000_000;
  const stream = (into: string[]): OutputStream => ({
    write: (text) => void into.push(text),
    isTTY: options.isTTY ?? false,
    columns: options.columns ?? 80,
  });
  return {
    stdout: stream(out),
    stderr: stream(err),
    cwd: options.cwd ?? "/",
    env: {},
    now: () => now,
    signal: interruption.signal,
    out: () => out.join(""),
    err: () => err.join(""),
    advance: (milliseconds) => {
      now += milliseconds;
    },
    interrupt: (reason) => interruption.abort(reason),
  };
}
