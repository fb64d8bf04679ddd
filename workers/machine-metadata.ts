// Asks what the machine says of itself over HTTP: EC2's metadata and ECS's agent, both on the machine itself.
import http from "node:http";

/** Milliseconds for an answer. */
const ANSWER_MS = 2000;
/** Characters of an answer that are kept; what is asked for here stays under 10 000. */
const ANSWER_CHARACTERS_MAX = 65_536;

export type MachineAnswer = { readonly status: number | undefined; readonly text: string };

/** Rejects when nobody answers in time. Keeps no process alive. */
export function askMachine(url: URL, method: string, headers: Record<string, string>): Promise<MachineAnswer> {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, headers, timeout: ANSWER_MS }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (part: string) => {
        text = (text + part).slice(0, ANSWER_CHARACTERS_MAX);
      });
      response.on("end", () => resolve({ status: response.statusCode, text }));
      response.on("error", reject);
    });
    request.on("timeout", () => request.destroy());
    request.on("error", reject);
    request.on("socket", (socket) => socket.unref());
    request.end();
  });
}
