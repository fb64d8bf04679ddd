// The merge executor without threads, for tests whose stores live in this process: the engine's own regions, scalar
// kernels.
import { digestBytes, digestTensorFile } from "../../core/artifact/digest.ts";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { HF_METADATA } from "../../core/formats/safetensors/shard-plan.ts";
import { createScalarKernels } from "../../core/ops/kernels.ts";
import { beginUnitWrites, derivedParts, describeDerived } from "../../engine/derived-files.ts";
import { measuredTensors, measureTensors } from "../../engine/measure-tensors.ts";
import { fitMeasuring, fitUnit } from "../../engine/memory.ts";
import { areLocal, mergeRegion, tensorsOf } from "../../engine/merge-region.ts";
import { cutRegions } from "../../engine/regions.ts";
import type { ExecuteMeasure, ExecuteMerge, MeasureRequest, MergeRequest } from "../../engine/request.ts";
import type { OpenStore } from "../../stores/store.ts";

/** Measures a unit's tensors in this thread, all of them as one task. `onMeasure` sees every unit that is measured. */
export function createInThreadMeasurer(
  openStore: OpenStore,
  onMeasure: (request: MeasureRequest) => void = () => undefined,
): ExecuteMeasure {
  return async (request, { signal }) => {
    onMeasure(request);
    const { unit, round, state, sources, memoryBytes } = request;
    const { windowElements, threadBytes } = fitMeasuring(unit, round, {
      threads: 1,
      memoryBytes,
      isRemote: !areLocal(unit.tensors, sources, { openStore }),
    });
    const kernels = createScalarKernels(threadBytes);
    let bytesRead = 0;
    const progress = (read: number): void => {
      bytesRead += read;
    };
    const rules = { nonFinite: unit.nonFinite, strict: unit.strict };
    const tensors = measuredTensors(unit);
    const task = { index: 0, round, tensors, rules, sources, state, windowElements };
    const part = await measureTensors(task, { kernels, openStore, signal, progress });
    return { part, bytesRead, kernels: kernels.id, threads: 1 };
  };
}

/** `onMerge` sees every unit that is really computed. */
export function createInThreadExecutor(
  openStore: OpenStore,
  onMerge: (request: MergeRequest) => void = () => undefined,
): ExecuteMerge {
  return async (request, { signal }) => {
    onMerge(request);
    const { unit, sources, state, importance, target } = request;
    const store = openStore(target.store);
    const regions = cutRegions(unit, 1);
    const { windowElements, keptBytes, threadBytes } = fitUnit(unit, {
      threads: 1,
      memoryBytes: request.memoryBytes,
      isRemote: !areLocal(unit.tensors, sources, { openStore }),
    });
    const kernels = createScalarKernels(threadBytes);
    const { header } = encodeSafetensorsHeader(unit.tensors, HF_METADATA, "given");
    const writes = await beginUnitWrites(request, regions, store, signal);
    const counts = { bytesRead: 0, bytesWritten: 0 };
    const progress = (read: number, written: number): void => {
      counts.bytesRead += read;
      counts.bytesWritten += written;
    };
    try {
      const results = [];
      for (const [index, region] of regions.entries()) {
        const prologue = index === 0 ? header : new Uint8Array(0);
        const rules = { nonFinite: unit.nonFinite, strict: unit.strict };
        const tensors = tensorsOf(unit, region);
        const task = {
          index,
          region,
          ticket: writes.own,
          prologue,
          tensors,
          derived: derivedParts(unit, region, writes, importance),
          rules,
          sources,
          state,
          targetStore: target.store,
          windowElements,
          keptBytes,
          statistics: false,
          digestInputs: false,
        };
        results.push(await mergeRegion(task, { kernels, openStore, signal, progress }));
      }
      await writes.finish(results);
      const tensors = results.flatMap((result) => result.tensors);
      const listed = unit.tensors.map(({ name, dtype, shape, offset, bytes }, index) => {
        const digest = tensors[index]?.digest ?? "";
        return { name, dtype, shape, offset: header.length + offset, bytes, digest };
      });
      const headerDigest = digestBytes(header);
      const digest = digestTensorFile(
        headerDigest,
        listed.map((tensor) => tensor.digest),
      );
      const output = tensors.reduce((sum, tensor) => sum + tensor.nonFiniteOutput, 0);
      const file = { name: unit.file, bytes: unit.fileBytes, digest, headerDigest, tensors: listed };
      const nonFinite = { inputs: {}, output };
      const made = { file, ...describeDerived(unit, results), nonFinite, statistics: null };
      return { ...made, ...counts, kernels: kernels.id, threads: 1 };
    } catch (cause) {
      await writes.abort();
      throw cause;
    }
  };
}
