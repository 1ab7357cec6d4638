// The events of the server, over fetch(): an EventSource could not send a token.

const SILENCE_MS = 20000;
const LONGEST_MS = 30000;

// Read events for ever: `heard(name, data)` for each; `failed({status, sentence, wait_ms, is_usual})`
// when there are none any more, before it is tried again. A status of 401 or 403 is not tried again
// before `restart`. `token()` returns what is sent.
export function listen(address, { token, heard, failed, opening }) {
  let cutOff = new AbortController();
  let wake = () => {};
  let tries = 0;
  let has_said = false;
  let retry_ms = 2000;

  async function once() {
    cutOff = new AbortController();
    has_said = false;
    let silence = 0;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => cutOff.abort(), SILENCE_MS);
    };
    alive();
    try {
      const given = token();
      const headers = { Accept: "text/event-stream", ...(given ? { Authorization: `Bearer ${given}` } : {}) };
      const answer = await fetch(address, { headers, cache: "no-store", signal: cutOff.signal });
      if (!answer.ok) {
        return { status: answer.status, sentence: await sentenceOf(answer) };
      }
      await eachEvent(answer.body, alive, (name, data, retry) => {
        retry_ms = retry ?? retry_ms;
        if (data !== "") {
          if (name === "message") {
            tries = 0;
            has_said = true;
          }
          heard(name, JSON.parse(data));
        }
      });
      return { status: 200, sentence: "" };
    } catch {
      return { status: 0, sentence: "" };
    } finally {
      clearTimeout(silence);
      cutOff.abort();
    }
  }

  async function run() {
    for (;;) {
      opening();
      const why = await once();
      const shut = why.status === 401 || why.status === 403;
      // Not all at once: many may watch a server that starts again.
      const backOff_ms = Math.min(LONGEST_MS, retry_ms * 2 ** tries) * (0.75 + Math.random() / 2);
      // The end of a stream that has said something is that of a worker: another is there already.
      const wait_ms = shut ? null : has_said ? 250 + 500 * Math.random() : backOff_ms;
      const is_usual = why.status === 200 && (has_said || tries < 2);
      tries += 1;
      const waited = new Promise((resolve) => {
        wake = resolve;
        if (wait_ms !== null) {
          setTimeout(resolve, wait_ms);
        }
      });
      failed({ ...why, wait_ms, is_usual });
      await waited;
    }
  }

  run();
  return {
    // Try now, from the beginning.
    restart() {
      tries = 0;
      cutOff.abort();
      wake();
    },
  };
}

async function sentenceOf(answer) {
  try {
    const { error } = await answer.json();
    return typeof error === "string" ? error : "";
  } catch {
    return ""; // a proxy in between may say anything
  }
}

// WHATWG HTML, 9.2.6: fields of lines, events between empty lines. Ours are ended by LF alone.
async function eachEvent(body, alive, told) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return;
    }
    alive();
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      let name = "message";
      let retry = null;
      const data = [];
      for (const line of event.split("\n")) {
        const [, field, text] = /^([^:]*):? ?(.*)$/.exec(line);
        if (field === "event") {
          name = text;
        } else if (field === "data") {
          data.push(text);
        } else if (field === "retry") {
          retry = Number(text);
        }
      }
      told(name, data.join("\n"), retry);
    }
  }
}
