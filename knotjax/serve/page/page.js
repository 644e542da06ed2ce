"use strict";
// This file runs twice: as the page's script, and as the module of its audio worklet, which hears the microphone.

if (typeof AudioWorkletProcessor !== "undefined") {
  class Listener extends AudioWorkletProcessor {
    process([input]) {
      if (input.length) this.port.postMessage(input[0].slice());
      return true;
    }
  }
  registerProcessor("listener", Listener);
} else {
  page();
}

function page() {
  const RATE = 16000; // of the sound that is sent
  const PIECE = RATE / 10; // samples of a message
  const BEHIND = 0.7; // seconds that the player keeps in hand; each stall adds to it, up to
  const BEHIND_MOST = 2.0;
  const TOO_FAR = 0.9; // seconds in hand beyond that, from which it jumps to the live edge
  const KEPT = 20; // seconds of the past that stay in the player
  const element = (id) => document.getElementById(id);
  const video = element("video");
  const state = { socket: null, peer: null, live: false, buffer: null, queue: [], points: [], stalls: 0, jumps: 0, speaking: null, frames: 0 };
  window.live = state; // for tests and the curious

  // Telling.

  function status(text, kind = "calm") {
    element("status").textContent = text;
    element("status").dataset.kind = kind;
  }
  function complain(text) {
    element("error").textContent = text || "";
    element("error").hidden = !text;
  }
  function running(on) {
    state.live = on;
    element("webrtc").disabled = on || Boolean(state.socket);
    for (const id of ["interrupt", "leave", "hello", "microphone", "sound"]) element(id).disabled = !on;
    element("start").disabled = on || Boolean(state.socket);
  }

  // The connection.

  function send(message) {
    if (state.socket && state.socket.readyState === WebSocket.OPEN) state.socket.send(message);
  }
  const tell = (type, fields = {}) => send(JSON.stringify({ type, ...fields }));
  const words = () => ({ emotion: element("emotion").value || null, action: element("action").value || null });

  function start() {
    if (!window.MediaSource && !element("webrtc").checked) {
      complain("This browser cannot play live video (it lacks Media Source Extensions): use Chromium, Firefox, Edge or Safari on a computer.");
      return;
    }
    complain("");
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
    socket.binaryType = "arraybuffer";
    Object.assign(state, { socket, buffer: null, queue: [], points: [], stalls: 0, jumps: 0, frames: 0, report: null, behind: BEHIND, hand: 0, cutAt: undefined });
    status("Connecting", "busy");
    running(false);
    socket.onopen = () => tell("hello", { token: element("token").value });
    socket.onmessage = (event) => (typeof event.data === "string" ? hear(JSON.parse(event.data)) : show(event.data));
    socket.onclose = (event) => closed(event);
  }

  async function hear(message) {
    if (message.type === "queue") {
      status(message.position ? `In the queue, place ${message.position}` : "The model starts", "busy");
    } else if (message.type === "ready") {
      status("Starting", "busy");
      const file = element("picture").files[0];
      if (file) await upload(file);
      if (element("webrtc").checked) await call();
      else begin();
    } else if (message.type === "answer") {
      await state.peer.setRemoteDescription({ type: "answer", sdp: message.sdp });
      begin();
    } else if (message.type === "started") {
      if (state.peer) play();
      else open(message.mime);
    } else if (message.type === "report") {
      state.report = message;
      note(message);
    } else if (message.type === "error") {
      complain(message.text);
    }
  }

  const begin = () => tell("start", { seed: Math.floor(Math.random() * 2 ** 32), ...words() });

  function closed(event) {
    stopSpeaking();
    if (state.peer) {
      state.peer.close();
      state.peer = video.srcObject = null;
    }
    state.socket = null;
    running(false);
    const bad = event.code !== 1000 && event.code !== 1005;
    status(bad ? "Disconnected" : "Not connected", bad ? "bad" : "calm");
    if (bad && element("error").hidden) {
      complain(event.reason || `The connection broke (${event.code}): is the server there? Press Start to try again.`);
    }
    if (state.buffer && state.source.readyState === "open" && !state.buffer.updating) state.source.endOfStream();
  }

  async function upload(file) {
    if (file.size > 20 * 2 ** 20) return complain("The portrait is larger than 20 MiB: make it smaller.");
    const data = await file.arrayBuffer();
    tell("portrait", { bytes: data.byteLength });
    for (let at = 0; at < data.byteLength; at += 2 ** 19) send(data.slice(at, at + 2 ** 19));
  }

  // WebRTC: the browser plays what comes by itself. The server's answer names the only address that is asked.

  async function call() {
    const peer = new RTCPeerConnection({ iceServers: [] }), stream = new MediaStream();
    state.peer = peer;
    peer.ontrack = ({ track }) => stream.addTrack(track);
    peer.addTransceiver("video", { direction: "recvonly" });
    peer.addTransceiver("audio", { direction: "recvonly" });
    await peer.setLocalDescription();
    video.srcObject = stream;
    tell("offer", { sdp: peer.localDescription.sdp });
  }

  function play() {
    video.play().catch((error) => {
      if (error.name === "NotAllowedError") complain("The browser plays sound after a click only: press the picture.");
    });
    status("Live", "good");
    running(true);
  }

  // The player: fragments go in, the live edge is kept near.

  function open(mime) {
    if (!MediaSource.isTypeSupported(mime)) {
      complain(`This browser cannot play ${mime}.`);
      tell("bye");
      return;
    }
    const source = new MediaSource();
    state.source = source;
    state.buffer = null;
    video.src = URL.createObjectURL(source);
    source.addEventListener("sourceopen", () => {
      URL.revokeObjectURL(video.src);
      if (state.source !== source || source.readyState !== "open") return;
      state.buffer = source.addSourceBuffer(mime);
      state.buffer.addEventListener("updateend", () => { feed(); follow(); });
      feed();
    });
    status("Live", "good");
    running(true);
  }

  function show(data) {
    state.queue.push(data);
    if (state.report && data.byteLength && state.report.fragment >= 0 && state.report !== state.confirmed) {
      state.confirmed = state.report;
      tell("got", { fragment: state.report.fragment });
      state.frames += Math.round(state.report.seconds * 25);
      if (state.report.cut) state.cutAt = state.report.begins;
    }
    feed();
  }

  function feed() {
    const buffer = state.buffer;
    if (!buffer || state.source.readyState !== "open" || buffer.updating || !state.queue.length) return;
    const begin = buffer.buffered.length ? buffer.buffered.start(0) : 0;
    try {
      if (video.currentTime - begin > 2 * KEPT) {
        buffer.remove(begin, video.currentTime - KEPT);
      } else {
        buffer.appendBuffer(state.queue[0]);
        state.queue.shift();
      }
    } catch (error) {
      if (error.name !== "QuotaExceededError") complain(`The player failed: ${error.message}`);
      else if (video.currentTime - begin > 2) buffer.remove(begin, video.currentTime - 1);
    }
  }

  function follow() {
    if (state.source.readyState !== "open" || !state.buffer.buffered.length) return;
    const ranges = state.buffer.buffered;
    const end = ranges.end(ranges.length - 1), first = ranges.start(ranges.length - 1);
    const hand = end - video.currentTime;
    state.hand = hand;
    if (state.cutAt !== undefined && end > state.cutAt) {
      if (video.currentTime < state.cutAt) video.currentTime = state.cutAt;
      state.cutAt = undefined;
    } else if (hand > state.behind + TOO_FAR || video.currentTime < first) {
      state.jumps += 1;
      video.currentTime = Math.max(first, end - state.behind);
    } else if (video.paused && hand > state.behind) {
      video.play().catch((error) => {
        if (error.name === "NotAllowedError") complain("The browser plays sound after a click only: press the picture.");
      });
    } else {
      video.playbackRate = hand > state.behind + 0.5 ? 1.06 : 1.0;
    }
  }
  video.addEventListener("click", () => video.play().then(() => complain(""), () => {}));
  video.addEventListener("waiting", () => {
    if (!state.socket || !state.buffer) return;
    if (video.currentTime > 0) {
      state.stalls += 1;
      state.behind = Math.min(BEHIND_MOST, state.behind + 0.15);
    }
    video.pause(); // until there is enough in hand again
    status("Waiting for the server", "busy");
  });
  video.addEventListener("error", () => {
    if (!state.socket || !video.error) return;
    complain(`The player gave up: ${video.error.message || "code " + video.error.code}`);
    tell("bye");
  });
  video.addEventListener("playing", () => state.socket && status("Live", "good"));

  // What is spoken.

  function toWhole(samples) {
    const whole = new Int16Array(samples.length);
    for (let n = 0; n < samples.length; n++) whole[n] = Math.max(-32768, Math.min(32767, Math.round(samples[n] * 32767)));
    return whole;
  }

  function stopSpeaking() {
    if (state.speaking) state.speaking();
    state.speaking = null;
    element("microphone").setAttribute("aria-pressed", "false");
    element("spoken").value = 0;
  }

  async function speak(data) {
    stopSpeaking();
    const rough = new OfflineAudioContext(1, 1, RATE); // decodes at its own rate
    let sound;
    try {
      sound = await rough.decodeAudioData(data);
    } catch {
      return complain("The browser cannot read this sound: convert it to WAV.");
    }
    if (sound.duration > 600) return complain("The sound lasts more than 10 minutes: cut it into pieces.");
    const mono = new Float32Array(sound.length);
    for (let channel = 0; channel < sound.numberOfChannels; channel++) {
      sound.getChannelData(channel).forEach((value, n) => { mono[n] += value / sound.numberOfChannels; });
    }
    const samples = toWhole(mono), began = performance.now() - 500;
    let sent = 0;
    tell("sound", { rate: RATE });
    const timer = setInterval(() => {
      const due = Math.min(samples.length, ((performance.now() - began) / 1000) * RATE);
      while (sent < due) {
        send(samples.slice(sent, sent + PIECE));
        sent += PIECE;
      }
      element("spoken").value = Math.min(1, sent / samples.length);
      if (sent >= samples.length) {
        tell("end");
        stopSpeaking();
      }
    }, 50);
    state.speaking = () => clearInterval(timer);
  }

  async function listen() {
    if (element("microphone").getAttribute("aria-pressed") === "true") {
      tell("end");
      return stopSpeaking();
    }
    stopSpeaking();
    if (!navigator.mediaDevices) return complain("The browser gives the microphone to pages over https or from this machine alone.");
    let stream, context;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } });
      context = new AudioContext({ sampleRate: RATE });
      await context.audioWorklet.addModule("/page.js");
    } catch (error) {
      if (stream) stream.getTracks().forEach((track) => track.stop());
      return complain(`The microphone cannot be used: ${error.message}`);
    }
    const node = new AudioWorkletNode(context, "listener");
    let held = [], count = 0;
    tell("sound", { rate: RATE });
    node.port.onmessage = ({ data }) => {
      held.push(data);
      count += data.length;
      if (count < PIECE) return;
      const piece = new Float32Array(count);
      let at = 0;
      for (const part of held) { piece.set(part, at); at += part.length; }
      held = [];
      count = 0;
      send(toWhole(piece));
    };
    context.createMediaStreamSource(stream).connect(node);
    element("microphone").setAttribute("aria-pressed", "true");
    element("muted").checked = video.muted = true; // one's own voice, late, is hard to bear
    state.speaking = () => {
      stream.getTracks().forEach((track) => track.stop());
      context.close();
    };
  }

  // The graph.

  const number = (value, text) => (typeof value === "number" ? text(value) : "–");

  function note(report) {
    // From sound to sight: what the stream needs by its plan, half the round trip, and what the player has in hand.
    const latency = 1000 * (report.stream.delay_seconds || 0) + 1000 * (state.hand || 0) + (report.round_ms || 0) / 2;
    state.points.push({ at: performance.now(), latency, drift: report.drift_ms });
    while (state.points.length > 130) state.points.shift();
    const rows = {
      "sound to sight": `${Math.round(latency)} ms`,
      "in hand": `${Math.round(1000 * (state.hand || 0))} ms`,
      "round trip": report.round_ms === null ? "–" : `${Math.round(report.round_ms)} ms`,
      drift: `${Math.round(report.drift_ms)} ms`,
      "model, p50": number(report.stream.block_ms_p50, (value) => `${Math.round(value)} ms`),
      "sound queued": number(report.stream.queue_seconds, (value) => `${value.toFixed(1)} s`),
      "deadline misses": report.stream.misses ?? "–",
      "frames left out": report.left_out,
      stalls: state.stalls,
    };
    element("figures").replaceChildren(...Object.entries(rows).map(([name, value]) => {
      const row = document.createElement("div"), term = document.createElement("dt"), text = document.createElement("dd");
      term.textContent = name;
      text.textContent = value;
      row.append(term, text);
      return row;
    }));
    draw();
  }

  function draw() {
    const canvas = element("graph"), pen = canvas.getContext("2d"), { width, height } = canvas;
    const low = Math.min(0, ...state.points.map((p) => p.drift)), high = Math.max(1000, ...state.points.map((p) => Math.max(p.latency, p.drift)));
    const y = (value) => height - 14 - ((value - low) / (high - low)) * (height - 40), now = performance.now();
    pen.clearRect(0, 0, width, height);
    pen.font = "18px system-ui";
    pen.lineWidth = 1;
    const step = 500 * 2 ** Math.max(0, Math.ceil(Math.log2((high - low) / 2500)));
    for (let mark = Math.ceil(low / step) * step; mark <= high; mark += step) {
      pen.strokeStyle = pen.fillStyle = mark ? "#2a323b" : "#4a545f";
      pen.beginPath();
      pen.moveTo(0, y(mark));
      pen.lineTo(width, y(mark));
      pen.stroke();
      pen.fillStyle = "#94a0ac";
      pen.fillText(`${mark} ms`, 4, y(mark) - 4);
    }
    for (const [name, colour, left] of [["latency", "#5cc8b0", 330], ["drift", "#f0b35c", 480]]) {
      pen.strokeStyle = pen.fillStyle = colour;
      pen.lineWidth = 3;
      pen.beginPath();
      for (const point of state.points) pen.lineTo(width - ((now - point.at) / 60000) * width, y(point[name]));
      pen.stroke();
      pen.fillText(name, width - left + 180, 20);
    }
  }

  // Controls.

  element("start").onclick = start;
  element("leave").onclick = () => { tell("bye"); status("Leaving", "busy"); };
  element("interrupt").onclick = () => { stopSpeaking(); tell("interrupt"); };
  element("hello").onclick = async () => speak(await (await fetch("/hello.wav")).arrayBuffer());
  element("microphone").onclick = listen;
  element("sound").onchange = async ({ target }) => {
    if (target.files[0]) await speak(await target.files[0].arrayBuffer());
    target.value = "";
  };
  element("picture").onchange = ({ target }) => {
    const file = target.files[0];
    if (!file) return;
    element("picture-name").textContent = file.name;
    element("portrait").src = URL.createObjectURL(file);
    video.poster = element("portrait").src;
    if (state.live) upload(file);
  };
  for (const id of ["emotion", "action"]) {
    element(id).onchange = ({ target }) => target.value && state.live && tell("switch", { [id]: target.value, ramp: 0.5 });
  }
  element("muted").onchange = ({ target }) => { video.muted = target.checked; };
  addEventListener("beforeunload", () => tell("bye"));

  fetch("/about").then((answer) => answer.json()).then((about) => {
    for (const [id, list] of [["emotion", about.emotions], ["action", about.actions]]) {
      for (const word of list) element(id).append(new Option(word, word));
    }
    element("token-field").hidden = !about.token;
    element("webrtc-field").hidden = !(about.webrtc && window.RTCPeerConnection);
    document.querySelector("h1 span").textContent = `live · ${about.method.replaceAll("_", " ")}`;
  }).catch(() => complain("The server does not answer: is it still running?"));
}
