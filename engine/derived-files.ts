// The files that a merge unit makes beside its own: how their writes begin, what each region gets of them, and what
// they are once they are written. Executors use it; the bytes are quantized-sink.ts's.
import assert from "node:assert/strict";
import { digestBytes, digestTensorFile } from "../core/artifact/digest.ts";
import type { BlockFile, UnitLoss } from "../core/plan/receipt.ts";
import type { DerivedFile, MergeUnit } from "../core/plan/schema.ts";
import type { ObjectStore, RegionReceipt, WriteTicket } from "../stores/store.ts";
import type { DerivedPart, RegionResult } from "./merge-region.ts";
import type { MergeRegion } from "./regions.ts";
import type { MergeRequest } from "./request.ts";

/** All writes of a unit: its own file first, then the derived ones. */
export type UnitWrites = {
  readonly own: WriteTicket;
  readonly derived: readonly WriteTicket[];
  /** Makes every file visible, derived ones first: the unit's own comes last. */
  finish(results: readonly RegionResult[]): Promise<void>;
  abort(): Promise<void>;
};

/** Begins the writes of a unit's files; none is left behind when one cannot begin. */
export async function beginUnitWrites(
  { unit, target }: MergeRequest,
  regions: readonly MergeRegion[],
  store: ObjectStore,
  signal: AbortSignal,
): Promise<UnitWrites> {
  const tickets: WriteTicket[] = [];
  const abort = async (): Promise<void> => {
    for (const ticket of tickets) await store.abortWrite(ticket);
  };
  const begin = async (key: string, bytes: number, spans: readonly { offset: number; bytes: number }[]) => {
    const ticket = await store.beginWrite(key, bytes, spans, { signal });
    tickets.push(ticket);
    return ticket;
  };
  try {
    const own = await begin(
      target.key,
      unit.fileBytes,
      regions.map(({ offset, bytes }) => ({ offset, bytes })),
    );
    const derived: WriteTicket[] = [];
    for (const [index, { file, fileBytes }] of unit.derived.entries()) {
      const spans = regions.flatMap((region) => region.derived[index] ?? []);
      derived.push(await begin(`${target.derivedPrefix}${file}`, fileBytes, spans));
    }
    const finish = async (results: readonly RegionResult[]): Promise<void> => {
      for (const [index, ticket] of derived.entries()) {
        const receipts = results.flatMap((result): RegionReceipt[] => result.derived.slice(index, index + 1));
        await store.finishWrite(ticket, receipts, { signal });
      }
      await store.finishWrite(
        own,
        results.map(({ receipt }) => receipt),
        { signal },
      );
    };
    return { own, derived, finish, abort };
  } catch (error) {
    await abort();
    throw error;
  }
}

/** What a region gets of every derived file. */
export function derivedParts(
  unit: MergeUnit,
  { firstTensor, endTensor }: MergeRegion,
  writes: Pick<UnitWrites, "derived">,
): readonly DerivedPart[] {
  return unit.derived.flatMap((file, index) => {
    const ticket = writes.derived[index];
    if (ticket === undefined) return [];
    const places = placesOf(file).filter(({ tensor: { tensor } }) => tensor >= firstTensor && tensor < endTensor);
    const tensors = places.map(({ tensor, paddingBytes }) => {
      return { tensor: { ...tensor, tensor: tensor.tensor - firstTensor }, paddingBytes };
    });
    return [{ ticket, prologue: firstTensor === 0 ? headerOf(file) : new Uint8Array(0), tensors }];
  });
}

/** Every derived file as it was written, and what quantizing lost. */
export function describeDerived(
  unit: MergeUnit,
  results: readonly RegionResult[],
): { readonly derived: readonly BlockFile[]; readonly losses: readonly UnitLoss[] } {
  const tensors = results.flatMap((result) => result.tensors);
  // A tensor's sinks are those of the derived files that have it, in the files' order.
  const sinks = tensors.map((tensor) => [...tensor.sinks]);
  const made = unit.derived.map((file) => {
    const headerDigest = digestBytes(headerOf(file));
    const blocks = placesOf(file).map(({ tensor, paddingBytes }) => {
      const sink = sinks[tensor.tensor]?.shift();
      assert.ok(sink !== undefined, "a derived tensor has a sink");
      const { name, scheme, shape, offset, bytes } = tensor;
      const block = { name, scheme, shape: [...shape], offset, bytes: bytes + paddingBytes, digest: sink.digest };
      const source = unit.tensors[tensor.tensor]?.name ?? "";
      return { block, loss: { file: file.file, tensor: source, scheme, ...sink.loss } };
    });
    const digests = blocks.map(({ block }) => block.digest);
    const digest = digestTensorFile(headerDigest, digests);
    const listed = { name: file.file, bytes: file.fileBytes, digest, headerDigest };
    return { file: { ...listed, blocks: blocks.map(({ block }) => block) }, losses: blocks.map(({ loss }) => loss) };
  });
  return { derived: made.map(({ file }) => file), losses: made.flatMap(({ losses }) => losses) };
}

function headerOf({ header }: DerivedFile): Uint8Array {
  return new Uint8Array(Buffer.from(header, "base64"));
}

function placesOf({ tensors, fileBytes }: DerivedFile) {
  return tensors.map((tensor, index) => {
    const next = tensors[index + 1]?.offset ?? fileBytes;
    return { tensor, paddingBytes: next - tensor.offset - tensor.bytes };
  });
}
