// Moving a channel: the only object of a yard that is overwritten, and only by compare-and-swap.
//
// The ordering rule: the later decision wins. A run decides when it is planned, a person when they promote or roll
// back. A run that took long therefore never moves a channel back over a run that was planned after it, whichever ends
// first, and never undoes what a person decided while it ran. Equal times are ordered by the run's name. Clocks differ:
// who decides takes a time later than what the channel says then, so that a clock that is behind loses nothing.
import { layout } from "../core/artifact/layout.ts";
import { MergeyardError } from "../core/error.ts";
import { YARD_LIMITS } from "../core/limits.ts";
import type { ObjectStore } from "../stores/store.ts";
import { encodeRecord } from "./records.ts";
import type { ChannelPointer, ChannelRecord } from "./schemas.ts";
import { readChannel } from "./yard.ts";

/**
 * Swaps that are tried. Each lost one means that somebody else's succeeded, so this is the number of publishers on one
 * channel within milliseconds; more than this are a fault of some loop.
 */
const SWAPS_MAX = 256;

/** moved: it points to the wanted version now. kept: it did already. lost: a later decision holds it. */
export type ChannelMove = { readonly outcome: "moved" | "kept" | "lost"; readonly current: ChannelPointer };

/** Points a channel to a version, unless a later decision holds it. Throws YardChannelContended. */
export async function moveChannel(
  yard: ObjectStore,
  place: { readonly model: string; readonly channel: string },
  wanted: ChannelPointer,
  signal: AbortSignal,
): Promise<ChannelMove> {
  const key = layout.channel(place.model, place.channel);
  for (let attempt = 0; attempt < SWAPS_MAX; attempt += 1) {
    const found = await readChannel(yard, place.model, place.channel);
    if (found === undefined) {
      const first = encodeRecord(channelRecord(wanted, undefined));
      if ((await yard.create(key, first, { signal })).created) return { outcome: "moved", current: wanted };
      continue;
    }
    const { version, run, decidedMs } = found.value;
    const current = { version, run, decidedMs };
    // A person who decides for what is there already decides all the same: no earlier run moves it away.
    const isConfirmed = wanted.run !== null || !isLater(wanted, current);
    if (version === wanted.version && isConfirmed) return { outcome: "kept", current };
    if (isLater(current, wanted)) return { outcome: "lost", current };
    const next = encodeRecord(channelRecord(wanted, found.value));
    if ((await yard.replace(key, next, found.etag, { signal })).replaced) return { outcome: "moved", current: wanted };
  }
  throw new MergeyardError("YardChannelContended", { where: { store: yard.uri, file: key, model: place.model } });
}

function isLater(a: ChannelPointer, b: ChannelPointer): boolean {
  if (a.decidedMs !== b.decidedMs) return a.decidedMs > b.decidedMs;
  return (a.run ?? "") > (b.run ?? "");
}

function channelRecord({ version, run, decidedMs }: ChannelPointer, before: ChannelRecord | undefined): ChannelRecord {
  const last = before && { version: before.version, run: before.run, decidedMs: before.decidedMs };
  const history = last === undefined ? [] : [last, ...(before?.history ?? [])];
  return { channel: 1, version, run, decidedMs, history: history.slice(0, YARD_LIMITS.channelHistory) };
}
