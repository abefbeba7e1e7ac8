/** Runs the convert command in a process that may not hold more than so much memory (Linux). */
export interface LimitedConvert {
  readonly source: string;
  readonly target: string;
  readonly dtype: string;
  /** Bytes of private writable memory (RLIMIT_DATA). */
  readonly limit: number;
  readonly output: "inherit" | "null";
}

/** Whether this system can limit a process so. */
export const CAN_LIMIT = Deno.build.os === "linux";

/** Converts; resolves to the exit code and the most memory that was resident, in bytes. */
export async function convertUnderLimit(
  { source, target, dtype, limit, output }: LimitedConvert,
): Promise<{ readonly code: number; readonly peakResident: number }> {
  const cli = new URL("../../src/convert/cli.ts", import.meta.url).pathname;
  const child = new Deno.Command("bash", {
    args: [
      "-c",
      `ulimit -d ${Math.floor(limit / 1024)} && exec "$@"`,
      "bash",
      Deno.execPath(),
      "run",
      "-A",
      "--no-lock",
      cli,
      source,
      target,
      "--dtype",
      dtype,
    ],
    stdout: output,
    stderr: output,
  }).spawn();
  let peakResident = 0;
  const watch = setInterval(() => {
    try {
      const status = Deno.readTextFileSync(`/proc/${child.pid}/status`);
      const kilobytes = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0);
      peakResident = Math.max(peakResident, kilobytes * 1024);
    } catch {
      // it has just ended: the last figure stands
    }
  }, 50);
  const { code } = await child.status;
  clearInterval(watch);
  return { code, peakResident };
}
