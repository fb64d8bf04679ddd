// What a command knows of the world it runs in: streams, folder, environment, clock, and the signal of ^C. Given to
// every command, so that tests run them inside one process with streams of their own.

export type OutputStream = {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
};

export type Terminal = {
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  /** The current folder; relative paths start here. */
  readonly cwd: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Aborted when the user interrupts; every command passes it on and cleans up. */
  readonly signal: AbortSignal;
};

/** Prints a command's result on stdout: one JSON document with `--json`, else the text. */
export function printResult(terminal: Terminal, json: boolean | undefined, data: unknown, text: () => string): void {
  terminal.stdout.write(`${json === true ? JSON.stringify(data, null, 2) : text()}\n`);
}
