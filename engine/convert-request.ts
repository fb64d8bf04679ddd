// What the engine is asked to do for one converted file and what it answers, and the regions that threads convert.
// Plain data both ways. Called by workers/convert-executor.ts.
import type { Digest } from "../core/artifact/digest.ts";
import type { TensorFileListing } from "../core/artifact/listed-file.ts";
import { type Fit, fitMemory, needFit } from "../core/plan/memory.ts";
import { tensorBytes } from "../core/tensor.ts";
import type { Region } from "../stores/store.ts";
import { GATHER_PEAK_BYTES, type GatherTensor } from "./gather.ts";
import { regionBytes } from "./region-size.ts";
import type { ExecuteOptions } from "./request.ts";

export type ConvertRequest = {
  /** The folder that ranges name files of, and the digests that are known of these. */
  readonly source: {
    readonly store: string;
    readonly prefix: string;
    readonly model?: string | undefined;
    readonly listings?: readonly TensorFileListing[] | undefined;
  };
  readonly target: { readonly store: string; readonly key: string };
  /** What the file begins with. */
  readonly header: Uint8Array;
  readonly fileBytes: number;
  /** In file order, without gaps. */
  readonly tensors: readonly GatherTensor[];
  readonly threads: number;
  /** Bound on the memory of the whole process. */
  readonly memoryBytes: number;
};

export type ConvertResult = {
  /** By the request's tensors; the same for any number of threads. */
  readonly digests: readonly Digest[];
  readonly threads: number;
};

/**
 * Makes a converted file: it is whole at `target` when the promise resolves, and nothing is there when it rejects.
 * Throws UniversalReplicasDisagree, YardFileCorrupt, EngineMemoryTooSmall, and what the stores throw. Edges construct
 * it with their stores.
 */
export type ExecuteConvert = (request: ConvertRequest, options: ExecuteOptions) => Promise<ConvertResult>;

/** Whole tensors: a digest is taken from a tensor's start to its end. */
export type ConvertRegion = Region & { readonly tensors: readonly GatherTensor[] };

/** Regions of the file in order; they cover it exactly, the first one with the header. */
export function cutConversion({ tensors, header, fileBytes, threads }: ConvertRequest): readonly ConvertRegion[] {
  const target = regionBytes(fileBytes, threads);
  const regions: ConvertRegion[] = [];
  let [offset, bytes, own]: [number, number, GatherTensor[]] = [0, header.byteLength, []];
  for (const tensor of tensors) {
    own.push(tensor);
    bytes += tensorBytes(tensor.dtype, tensor.shape);
    if (bytes < target || offset + bytes === fileBytes) continue;
    regions.push({ offset, bytes, tensors: own });
    [offset, bytes, own] = [offset + bytes, 0, []];
  }
  return [...regions, { offset, bytes, tensors: own }];
}

/** Threads for the request within its memory. Throws EngineMemoryTooSmall when one does not fit. */
export function fitConversion({ memoryBytes, target }: ConvertRequest, threads: number): Fit {
  const fit = fitMemory(() => GATHER_PEAK_BYTES, { threads, memoryBytes });
  return needFit(fit, memoryBytes, { file: target.key });
}
