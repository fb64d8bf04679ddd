// The documents of ranks that saved without talking to each other (dcp.save with use_collectives=False) as one: each
// describes what its rank holds, and what all ranks hold stands in all of them. Called by dcp.ts.
// Source: torch.distributed.checkpoint.filesystem (FileSystemWriter.finish).
import type { CheckpointFile } from "../../checkpoint.ts";
import { asKind, countsOf, fieldOf, itemsOf, type PickleRecord, type PickleValue } from "../pickle/value.ts";

const RANK_METADATA = /^__(\d+)\.metadata$/;

/** Such documents among the files directly below `prefix`, by rank. */
export function rankMetadata(files: readonly CheckpointFile[], prefix: string): readonly CheckpointFile[] {
  const ranked = files.flatMap((file) => {
    const rank = file.name.startsWith(prefix) ? RANK_METADATA.exec(file.name.slice(prefix.length))?.[1] : undefined;
    return rank === undefined ? [] : [{ file, rank: Number(rank) }];
  });
  return ranked.sort((a, b) => a.rank - b.rank).map(({ file }) => file);
}

/** One document of all ranks. Where two place the same chunk or object, the lower rank's place counts. */
export function joinRanks(first: PickleRecord, others: readonly PickleRecord[]): PickleRecord {
  if (others.length === 0) return first;
  const documents = [first, ...others];
  const entriesOf = (field: string, from: readonly PickleRecord[]) =>
    from.flatMap((document) => [...(asKind(fieldOf(document, field), "dict")?.entries ?? [])]);
  const described = new Map<string, PickleValue>();
  for (const [id, { value }] of entriesOf("state_dict_metadata", documents)) {
    const known = described.get(String(id));
    described.set(String(id), known === undefined ? value : withChunks(known, value));
  }
  const tensors = entriesOf("state_dict_metadata", documents).map(([id, { key, value }]) => {
    return [id, { key, value: described.get(String(id)) ?? value }] as const;
  });
  // The last entry of a place counts.
  const places = entriesOf("storage_data", [...documents].reverse());
  const fields = new Map<string, PickleValue>([
    ...first.fields,
    ["state_dict_metadata", { kind: "dict", entries: new Map(tensors) }],
    ["planner_data", { kind: "dict", entries: new Map(entriesOf("planner_data", documents)) }],
    ["storage_data", { kind: "dict", entries: new Map(places) }],
  ]);
  return { ...first, fields };
}

/** A tensor's description with the chunks of another rank too; those at the same offsets are the same. */
function withChunks(known: PickleValue, own: PickleValue): PickleValue {
  const record = asKind(known, "record");
  const chunks = itemsOf(fieldOf(known, "chunks"));
  if (record === undefined || chunks === undefined) return known;
  const offsetsOf = (chunk: PickleValue) => String(countsOf(fieldOf(chunk, "offsets")));
  const there = new Set(chunks.map(offsetsOf));
  const added = (itemsOf(fieldOf(own, "chunks")) ?? []).filter((chunk) => !there.has(offsetsOf(chunk)));
  const items = [...chunks, ...added];
  return { ...record, fields: new Map([...record.fields, ["chunks", { kind: "list", items }] as const]) };
}
