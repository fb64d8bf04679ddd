// Which image this process runs in, as ECS tells every container that it starts; for the records of what was computed.
import * as z from "zod";
import { askMachine } from "./machine-metadata.ts";

const metadataSchema = z.looseObject({ ImageID: z.string().regex(/^sha256:[0-9a-f]{64}$/) });

/** The image's digest; undefined outside of ECS, and when the agent does not answer: nothing depends on it. */
export async function readContainerImage(
  environment: Readonly<Record<string, string | undefined>>,
): Promise<string | undefined> {
  const endpoint = environment.ECS_CONTAINER_METADATA_URI_V4;
  if (endpoint === undefined) return undefined;
  try {
    const { text } = await askMachine(new URL(endpoint), "GET", {});
    return metadataSchema.safeParse(JSON.parse(text)).data?.ImageID;
  } catch {
    return undefined;
  }
}
