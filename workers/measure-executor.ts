// The measuring executor of bit plans: in this thread, with the WebAssembly kernels; samples are small.
import { type MeasureSchemes, measureSchemes } from "../engine/measure-schemes.ts";
import { createWasmKernels } from "../kernels/wasm/host.ts";
import type { OpenStore } from "../stores/store.ts";

/** Room for one sample of the widest matrices, stored, widened and as blocks. */
const CAPACITY_BYTES = 64 << 20;

export function createMeasureSchemes(openStore: OpenStore): MeasureSchemes {
  return (request, { signal, progress }) => {
    let read = 0;
    const kernels = createWasmKernels(CAPACITY_BYTES);
    return measureSchemes(request, {
      kernels,
      openStore,
      signal,
      progress: (bytes) => {
        read += bytes;
        progress?.(read);
      },
    });
  };
}
