// What a person decides about a channel: promote points it to a version, rollback to the one before. Both are decisions
// like a run's (channel.ts): taken now, and later than what the channel says.
import { checkName } from "../core/artifact/key.ts";
import { layout } from "../core/artifact/layout.ts";
import { MergeyardError } from "../core/error.ts";
import type { ObjectStore } from "../stores/store.ts";
import { moveChannel } from "./channel.ts";
import type { ChannelRecord } from "./schemas.ts";
import type { StepDeps } from "./step.ts";
import { findVersion, parseVersionReference, readChannel } from "./yard.ts";

export type Decision = {
  readonly model: string;
  readonly channel: string;
  readonly version: string;
  /** Where the channel pointed; null when it is new. */
  readonly before: string | null;
};

type ChannelPlace = { readonly model: string; readonly channel: string };

/**
 * Points a channel of a model to the version that `reference` (MODEL, MODEL@VERSION or MODEL:CHANNEL) means.
 * Throws YardModelMissing, YardVersionMissing, YardChannelMissing, YardChannelContended.
 */
export async function promote(
  yard: ObjectStore,
  reference: string,
  channel: string,
  deps: StepDeps,
): Promise<Decision> {
  const { model, version } = await findVersion(yard, parseVersionReference(reference));
  return decide(yard, { model, channel: checkName(channel) }, () => version, deps);
}

/**
 * Points a channel to the version that it pointed to before, or to `to`; versions that are gone are passed over.
 * Throws YardChannelMissing, YardVersionMissing, YardRollbackEnd, YardChannelContended.
 */
export async function rollback(
  yard: ObjectStore,
  place: ChannelPlace,
  to: string | undefined,
  deps: StepDeps,
): Promise<Decision> {
  if (to !== undefined) {
    const { version } = await findVersion(yard, { model: place.model, version: to, channel: undefined });
    return decide(yard, place, () => version, deps);
  }
  return decide(yard, place, (record) => findEarlier(yard, place, record, deps.signal), deps);
}

async function decide(
  yard: ObjectStore,
  { model, channel }: ChannelPlace,
  choose: (record: ChannelRecord | undefined) => string | Promise<string>,
  deps: StepDeps,
): Promise<Decision> {
  for (;;) {
    const found = (await readChannel(yard, model, channel))?.value;
    const version = await choose(found);
    const decidedMs = Math.max(deps.now(), (found?.decidedMs ?? 0) + 1);
    const move = await moveChannel(yard, { model, channel }, { version, run: null, decidedMs }, deps.signal);
    // A decision that was taken meanwhile is what this one is about now.
    if (move.outcome === "lost") continue;
    await checkStillThere(yard, { model, channel }, version, found, deps);
    return { model, channel, version, before: found?.version ?? null };
  }
}

/** Whoever removes old versions looks at the channels once more after that; so it is seen here, or there. */
async function checkStillThere(
  yard: ObjectStore,
  { model, channel }: ChannelPlace,
  version: string,
  before: ChannelRecord | undefined,
  deps: StepDeps,
): Promise<void> {
  if ((await yard.head(layout.versionManifest(model, version), { signal: deps.signal })) !== undefined) return;
  if (before !== undefined) {
    const back = { version: before.version, run: before.run, decidedMs: deps.now() + 1 };
    await moveChannel(yard, { model, channel }, back, deps.signal);
  }
  const where = { store: yard.uri, model };
  throw new MergeyardError("YardVersionMissing", { where, found: "removed meanwhile", expected: version });
}

/** The version that counted before the channel's own, of those that are still there. */
async function findEarlier(
  yard: ObjectStore,
  { model, channel }: ChannelPlace,
  record: ChannelRecord | undefined,
  signal: AbortSignal,
): Promise<string> {
  const where = { store: yard.uri, model };
  if (record === undefined) {
    throw new MergeyardError("YardChannelMissing", { where, found: "no such channel", expected: channel });
  }
  for (const version of countingVersions(record).reverse()) {
    if (version === record.version) continue;
    if ((await yard.head(layout.versionManifest(model, version), { signal })) !== undefined) return version;
  }
  throw new MergeyardError("YardRollbackEnd", {
    where: { ...where, file: layout.channel(model, channel) },
    found: `${record.version}, and nothing before it that is still there`,
  });
}

/**
 * The versions that count, oldest first, the channel's own last. What a person came back to ends all that followed it,
 * so that rolling back twice goes two versions back; what a run published again follows what it replaced.
 */
function countingVersions(record: ChannelRecord): string[] {
  const counting: string[] = [];
  for (const { version, run } of [record, ...record.history].reverse()) {
    const before = run === null ? counting.lastIndexOf(version) : -1;
    if (before === -1) counting.push(version);
    else counting.length = before + 1;
  }
  return counting;
}
