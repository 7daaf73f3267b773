//! A page in a real browser, over the Chrome DevTools Protocol. As much of it as the dashboard's tests need.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use futures_util::{SinkExt, StreamExt};
use milepost_harness::Chromium;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// How long one command of the protocol may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(90);
/// How long a condition may take to come true.
pub const CONDITION_WITHIN: Duration = Duration::from_secs(45);

/// A connection to the browser or to one of its pages.
struct Devtools {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    /// What the page complained about: exceptions, and errors in the console such as a refused script.
    complaints: Vec<String>,
}

impl Devtools {
    async fn connect(address: &str) -> Result<Self> {
        let (socket, _) = tokio_tungstenite::connect_async(address).await.context("connect to Chromium")?;
        Ok(Self { socket, last_id: 0, complaints: Vec::new() })
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let called = tokio::time::timeout(COMMAND_WITHIN, self.exchange(method, params)).await;
        called.with_context(|| format!("{method} took too long"))?.with_context(|| method.to_owned())
    }

    async fn exchange(&mut self, method: &str, params: Value) -> Result<Value> {
        self.last_id += 1;
        let command = json!({ "id": self.last_id, "method": method, "params": params });
        self.socket.send(Message::text(command.to_string())).await?;
        loop {
            let message = self.socket.next().await.context("Chromium has closed the connection")??;
            let Message::Text(text) = message else { continue };
            let mut message: Value = serde_json::from_str(&text)?;
            if message["id"] != json!(self.last_id) {
                self.note(&message);
                continue;
            }
            if message["error"].is_object() {
                bail!("{}", message["error"]);
            }
            return Ok(message["result"].take());
        }
    }

    fn note(&mut self, message: &Value) {
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints.push(message["params"]["exceptionDetails"].to_string());
            }
            Some("Log.entryAdded") if message["params"]["entry"]["level"] == "error" => {
                self.complaints.push(message["params"]["entry"].to_string());
            }
            _ => {}
        }
    }
}

/// A page. Ends with its browser.
pub struct Page {
    devtools: Devtools,
}

impl Page {
    /// Opens an empty page.
    pub async fn open(browser: &Chromium) -> Result<Self> {
        let mut whole = Devtools::connect(browser.debugger()).await?;
        let target = whole.call("Target.createTarget", json!({ "url": "about:blank" })).await?;
        let host = browser.debugger().split("/devtools/").next().context("an address of a debugger")?;
        let id = target["targetId"].as_str().context("a target id")?;
        let mut devtools = Devtools::connect(&format!("{host}/devtools/page/{id}")).await?;
        for domain in ["Page", "Runtime", "Log"] {
            devtools.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(Self { devtools })
    }

    /// Loads an address.
    pub async fn go(&mut self, address: &str) -> Result<()> {
        let answer = self.devtools.call("Page.navigate", json!({ "url": address })).await?;
        match answer["errorText"].as_str() {
            Some(error) => bail!("{address}: {error}"),
            None => Ok(()),
        }
    }

    /// Evaluates an expression; a promise is awaited.
    pub async fn eval<T: DeserializeOwned>(&mut self, expression: &str) -> Result<T> {
        let params = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true });
        let mut answer = self.devtools.call("Runtime.evaluate", params).await?;
        if answer["exceptionDetails"].is_object() {
            bail!("{expression}: {}", answer["exceptionDetails"]["exception"]["description"]);
        }
        serde_json::from_value(answer["result"]["value"].take()).with_context(|| expression.to_owned())
    }

    /// Waits until an expression is true, in the page itself. One that fails counts as not yet true.
    pub async fn wait(&mut self, condition: &str) -> Result<()> {
        let ms = CONDITION_WITHIN.as_millis();
        let script = format!(
            "new Promise((done) => {{
                const end = Date.now() + {ms};
                const look = () => {{
                    let holds = false;
                    try {{ holds = Boolean({condition}); }} catch {{ holds = false; }}
                    if (holds || Date.now() > end) done(holds);
                    else setTimeout(look, 20);
                }};
                look();
            }})"
        );
        let deadline = tokio::time::Instant::now() + CONDITION_WITHIN;
        loop {
            // The promise dies with the document when the page is still loading: then it is asked for again.
            match self.eval::<bool>(&script).await {
                Ok(true) => return Ok(()),
                Ok(false) => break,
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
        let body: String = self.eval("document.body.innerText").await?;
        bail!("waited in vain for {condition}; the page says:\n{body}\ncomplaints: {:#?}", self.complaints())
    }

    /// Clicks the first element of a selector, as a user's click would.
    pub async fn click(&mut self, selector: &str) -> Result<()> {
        let quoted = json!(selector);
        self.wait(&format!("document.querySelector({quoted}) && !document.querySelector({quoted}).disabled"))
            .await?;
        self.eval(&format!("document.querySelector({quoted}).click()")).await
    }

    /// Types a text into an input, in place of what it held.
    pub async fn fill(&mut self, selector: &str, text: &str) -> Result<()> {
        let (quoted, text) = (json!(selector), json!(text));
        self.eval(&format!(
            "(() => {{ const input = document.querySelector({quoted}); input.value = {text};
                input.dispatchEvent(new Event('input', {{ bubbles: true }}));
                input.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()"
        ))
        .await
    }

    /// Brings the page in front of the browser's others: one that is hidden is not drawn.
    pub async fn bring_forward(&mut self) -> Result<()> {
        self.devtools.call("Page.bringToFront", json!({})).await.map(drop)
    }

    /// Sets the size of the viewport, in CSS pixels.
    pub async fn size(&mut self, width: u32, height: u32) -> Result<()> {
        let params = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools.call("Emulation.setDeviceMetricsOverride", params).await.map(drop)
    }

    /// Sets whether the system prefers dark colours.
    pub async fn dark(&mut self, dark: bool) -> Result<()> {
        let value = if dark { "dark" } else { "light" };
        let params = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.devtools.call("Emulation.setEmulatedMedia", params).await.map(drop)
    }

    /// Writes what is seen to a PNG file.
    pub async fn screenshot(&mut self, file: &Path) -> Result<()> {
        let answer = self.devtools.call("Page.captureScreenshot", json!({ "format": "png" })).await?;
        let data = answer["data"].as_str().context("a picture")?;
        Ok(std::fs::write(file, base64::engine::general_purpose::STANDARD.decode(data)?)?)
    }

    /// Exceptions and console errors so far.
    pub fn complaints(&self) -> &[String] {
        &self.devtools.complaints
    }
}
