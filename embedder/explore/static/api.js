// Questions to the page's own server. Every failure is an Error whose message is a sentence for people.

export async function ask(path, parameters = {}, options = {}) {
  const query = new URLSearchParams(parameters).toString();
  const response = await send(query ? `${path}?${query}` : path, options);
  return response.json();
}

export async function fetchPicture(row, signal) {
  const response = await send(`picture?row=${row}`, { signal });
  return response.blob();
}

async function send(address, options) {
  let response;
  try {
    response = await fetch(address, { ...options, credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("embedder explore does not answer; it has ended, or is stopped. Start it again.");
  }
  if (response.ok) return response;
  let message = `the server answered with status ${response.status}`;
  try {
    message = (await response.json()).message;
  } catch {
    // Not an answer of the application: the status says all there is.
  }
  throw new Error(message);
}
