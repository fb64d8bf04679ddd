// Runs a command as a whole process and says what it cost: wall and processor seconds as the shell's `time` accounts
// them, and the peak of its resident memory as the kernel keeps it. And the rate of work in this process.
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";

export type Cost = { readonly wallS: number; readonly cpuS: number; readonly peakBytes: number };

/** How often the memory's high-water mark is read; it only rises, so the last reading is what counts. */
const POLL_MS = 20;

/** Costs of a shell command; rejects with its output when it fails. */
export function measure(command: string, cwd: string): Promise<Cost> {
  const script = `TIMEFORMAT='@@ %R %U %S'; time ${command}`;
  const child = spawn("bash", ["-c", script], { cwd, stdio: ["ignore", "ignore", "pipe"] });
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  let peakBytes = 0;
  const timer = setInterval(() => {
    peakBytes = Math.max(peakBytes, ...childrenOf(child.pid).map(highWaterBytes));
  }, POLL_MS);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => {
      clearInterval(timer);
      const [, wall, user, system] = /@@ ([\d.]+) ([\d.]+) ([\d.]+)/.exec(stderr) ?? [];
      if (code !== 0 || wall === undefined) return reject(new Error(`${command} ended with ${code}:\n${stderr}`));
      return resolve({ wallS: Number(wall), cpuS: Number(user) + Number(system), peakBytes });
    });
  });
}

function childrenOf(pid: number | undefined): readonly string[] {
  return read(`/proc/${pid}/task/${pid}/children`)
    .split(" ")
    .filter((child) => child !== "");
}

function highWaterBytes(pid: string): number {
  const [, kibibytes = "0"] = /VmHWM:\s+(\d+) kB/.exec(read(`/proc/${pid}/status`)) ?? [];
  return Number(kibibytes) * 1024;
}

/** A process's file in /proc; empty when the process is gone. */
function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** The least of each figure: what the command costs when nothing disturbs it. */
export function least(costs: readonly Cost[]): Cost {
  const min = (pick: (cost: Cost) => number): number => Math.min(...costs.map(pick));
  return {
    wallS: min((cost) => cost.wallS),
    cpuS: min((cost) => cost.cpuS),
    peakBytes: Math.max(...costs.map((cost) => cost.peakBytes)),
  };
}

/** CPU-seconds of one measurement, and of its slices: long enough for a clock, short enough for a quiet moment. */
export const SITTING_S = 0.15;
const SLICE_S = 0.01;

/** GB per CPU-second of work on `bytes`, repeated for one sitting, in its best slice. */
export function measureRate(bytes: number, work: () => void): number {
  const cpuS = (): number => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  };
  // Once before: code is compiled then.
  work();
  let [best, total] = [0, 0];
  while (total < SITTING_S) {
    const start = cpuS();
    let [done, spent] = [0, 0];
    while (spent < SLICE_S) {
      work();
      done += bytes;
      spent = cpuS() - start;
    }
    best = Math.max(best, done / spent / 1e9);
    total += spent;
  }
  return best;
}

/** The best of some rates; 0 of none. */
export function most(rates: readonly number[] | undefined): number {
  return Math.max(...(rates ?? [0]));
}

export function rate(value: number): string {
  return value.toFixed(value < 1 ? 3 : 2);
}
