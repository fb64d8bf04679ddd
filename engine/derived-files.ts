// The files that a merge unit makes beside its own: how their writes begin, what each region gets of them, and what
// they are once they are written. Executors use it; the bytes are sink.ts's.
import assert from "node:assert/strict";
import { digestBytes, digestTensorFile } from "../core/artifact/digest.ts";
import type { Importance } from "../core/formats/gguf/imatrix.ts";
import { sinkMatrix } from "../core/plan/memory.ts";
import type { BlockFile, DerivedFileListing, TensorFile, UnitLoss } from "../core/plan/receipt.ts";
import type { DerivedFile, DerivedModule, DerivedTensor, MergeUnit } from "../core/plan/schema.ts";
import type { ObjectStore, RegionReceipt, WriteTicket } from "../stores/store.ts";
import type { DerivedPart, RegionResult } from "./merge-region.ts";
import type { MergeRegion } from "./regions.ts";
import type { MergeRequest } from "./request.ts";
import type { SinkPlace } from "./sink.ts";

/** All writes of a unit: its own file first, then the derived ones. */
export type UnitWrites = {
  readonly own: WriteTicket;
  readonly derived: readonly WriteTicket[];
  /** Makes every file visible, derived ones first: the unit's own comes last. */
  finish(results: readonly RegionResult[]): Promise<void>;
  /** Never rejects: what went wrong before is the error to show. */
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
    for (const ticket of tickets) await store.abortWrite(ticket).catch(() => undefined);
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
  importance: MergeRequest["importance"],
): readonly DerivedPart[] {
  return unit.derived.flatMap((file, index) => {
    const ticket = writes.derived[index];
    if (ticket === undefined) return [];
    const places = placesOf(file).filter(({ tensor: { tensor } }) => tensor >= firstTensor && tensor < endTensor);
    const tensors = places.map(({ tensor, paddingBytes }) => {
      const own = "name" in tensor ? importanceOf(tensor, importance?.[index]) : undefined;
      return { tensor: countFrom(tensor, firstTensor), paddingBytes, importance: own };
    });
    const hessians = file.format === "safetensors" ? file.hessians : undefined;
    const prologue = firstTensor === 0 ? bytesBefore(file) : new Uint8Array(0);
    const epilogue = endTensor === unit.tensors.length ? bytesAfter(file) : new Uint8Array(0);
    return [{ ticket, prologue, epilogue, tensors, hessians }];
  });
}

/** Bytes before the tensors: the header, and parts that no weight decides. */
function bytesBefore(file: DerivedFile): Uint8Array {
  const known = knownParts(file).filter(({ place }) => place.offset < firstOffset(file));
  return Buffer.concat([headerOf(file), ...known.map(({ bytes }) => bytes)]);
}

/** Parts behind the tensors. */
function bytesAfter(file: DerivedFile): Uint8Array {
  const known = knownParts(file).filter(({ place }) => place.offset >= firstOffset(file));
  return Buffer.concat(known.map(({ bytes }) => bytes));
}

function firstOffset({ tensors, fileBytes }: DerivedFile): number {
  return tensors[0]?.offset ?? fileBytes;
}

type PlacedPart = DerivedModule["parts"][number];

/** Parts that schemes know beforehand, in the file's order. */
function knownParts(file: DerivedFile): readonly { readonly place: PlacedPart; readonly bytes: Uint8Array }[] {
  if (file.format === "gguf") return [];
  const known = file.tensors.flatMap((tensor) => {
    const parts = sinkMatrix(tensor)?.parts ?? [];
    return tensor.parts.flatMap((place, index) => {
      const bytes = parts[index]?.known;
      return bytes === undefined ? [] : [{ place, bytes }];
    });
  });
  return known.sort((a, b) => a.place.offset - b.place.offset);
}

/** A tensor whose numbers count in a region that begins at tensor `first`. */
function countFrom<Tensor extends DerivedTensor | DerivedModule>(tensor: Tensor, first: number): Tensor {
  const own = { ...tensor, tensor: tensor.tensor - first };
  return "fused" in own && own.fused !== undefined ? { ...own, fused: own.fused.map((index) => index - first) } : own;
}

/** Of a stack of experts, each has its own part. */
function importanceOf(
  { name, expert, shape }: DerivedTensor,
  matrix: Importance | undefined,
): Float32Array | undefined {
  const columns = shape.at(-1) ?? 1;
  const all = matrix?.get(name);
  return expert === undefined ? all : all?.subarray(expert * columns, (expert + 1) * columns);
}

/** Every derived file as it was written, and what quantizing lost. */
export function describeDerived(
  unit: MergeUnit,
  results: readonly RegionResult[],
): { readonly derived: readonly DerivedFileListing[]; readonly losses: readonly UnitLoss[] } {
  const tensors = results.flatMap((result) => result.tensors);
  // A tensor's sinks are those of the derived files that have it, in the files' order.
  const sinks = tensors.map((tensor) => [...tensor.sinks]);
  const made = unit.derived.map((file) => {
    const written = placesOf(file).map((place) => {
      const sink = sinks[place.tensor.tensor]?.shift();
      assert.ok(sink !== undefined, "a derived tensor has a sink");
      return { ...place, sink };
    });
    const headerDigest = digestBytes(headerOf(file));
    const listing = listTensors(
      file,
      written.map(({ sink }) => sink.digests),
    );
    const tensorDigests = ("blocks" in listing ? listing.blocks : listing.tensors).map(({ digest }) => digest);
    const digest = digestTensorFile(headerDigest, tensorDigests);
    const listed = { name: file.file, bytes: file.fileBytes, digest, headerDigest };
    const losses = written.flatMap(({ tensor: { tensor, scheme }, sink }): UnitLoss[] => {
      const source = unit.tensors[tensor]?.name ?? "";
      if (sink.loss === undefined || scheme === undefined) return [];
      return [{ output: file.output, tensor: source, scheme, ...sink.loss, delta: tensors[tensor]?.delta ?? null }];
    });
    return { file: { ...listed, ...listing }, losses };
  });
  return { derived: made.map(({ file }) => file), losses: made.flatMap(({ losses }) => losses) };
}

/** Everything that a file lists, in its order; digests by tensor, of what was made of it. */
function listTensors(
  file: DerivedFile,
  digests: readonly (readonly string[])[],
): Pick<BlockFile, "blocks"> | Pick<TensorFile, "tensors"> {
  if (file.format === "gguf") {
    const blocks = file.tensors.map(({ name: own, expert, scheme, shape, offset }, index) => {
      const end = file.tensors[index + 1]?.offset ?? file.fileBytes;
      const name = expert === undefined ? own : `${own}[${expert}]`;
      return { name, scheme, shape: [...shape], offset, bytes: end - offset, digest: digests[index]?.[0] ?? "" };
    });
    return { blocks };
  }
  const known = new Map(knownParts(file).map(({ place, bytes }) => [place.name, digestBytes(bytes)]));
  const parts = file.tensors.flatMap((tensor, index) => {
    const made = [...(digests[index] ?? [])];
    return tensor.parts.map((part) => {
      return { ...part, shape: [...part.shape], digest: known.get(part.name) ?? made.shift() ?? "" };
    });
  });
  return { tensors: parts.sort((a, b) => a.offset - b.offset) };
}

function headerOf({ header }: DerivedFile): Uint8Array {
  return new Uint8Array(Buffer.from(header, "base64"));
}

function placesOf(file: DerivedFile): readonly Pick<SinkPlace, "tensor" | "paddingBytes">[] {
  const { tensors, fileBytes } = file;
  return tensors.map((tensor, index) => {
    const next = tensors[index + 1]?.offset ?? fileBytes;
    return { tensor, paddingBytes: "parts" in tensor ? 0 : next - tensor.offset - tensor.bytes };
  });
}
