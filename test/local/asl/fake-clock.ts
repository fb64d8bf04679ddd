// A clock that jumps: whenever nothing else is left to do, it fires the earliest timer. Days pass in a millisecond.
import type { Clock } from "../../../local/asl/clock.ts";

type Timer = { readonly atMs: number; readonly callback: () => void };

/** Starts at 2026-01-01T00:00:00Z. `pending` counts timers that were neither fired nor cancelled. */
export function createFakeClock(): Clock & { pending(): number } {
  let nowMs = Date.UTC(2026, 0, 1);
  let armed = false;
  const timers = new Set<Timer>();
  const arm = (): void => {
    if (armed || timers.size === 0) return;
    armed = true;
    setImmediate(() => setImmediate(fire));
  };
  const fire = (): void => {
    armed = false;
    const [first] = [...timers].sort((a, b) => a.atMs - b.atMs);
    if (first === undefined) return;
    timers.delete(first);
    nowMs = Math.max(nowMs, first.atMs);
    first.callback();
    arm();
  };
  return {
    now: () => nowMs,
    pending: () => timers.size,
    after(ms, callback) {
      const timer = { atMs: nowMs + ms, callback };
      timers.add(timer);
      arm();
      return () => void timers.delete(timer);
    },
  };
}
