// Java's own HttpClient behind the gate. Usage: Http.java BASE 1|2
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;

public class Http {
    static String base;
    static HttpClient client;
    static byte[] whole;
    static HttpClient.Version version;

    interface Body { void run() throws Exception; }

    static void check(String name, Body f) {
        try {
            f.run();
            System.out.println("ok " + name);
        } catch (Throwable e) {
            System.out.println("not ok " + name + ": " + String.valueOf(e).replace('\n', ' '));
        }
    }

    static void want(Object got, Object expected) {
        if (!expected.equals(got)) {
            throw new AssertionError(got + ", want " + expected);
        }
    }

    static String sum(byte[] b) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(b));
    }

    static String sum(int n) throws Exception { return sum(Arrays.copyOf(whole, n)); }

    static HttpRequest.Builder to(String path) { return HttpRequest.newBuilder(URI.create(base + path)).timeout(Duration.ofSeconds(60)); }

    static void down(int n, String query) throws Exception {
        HttpResponse<byte[]> r = client.send(to("/bytes/" + n + query).build(), BodyHandlers.ofByteArray());
        want(r.version(), version);
        want(sum(r.body()), sum(n));
    }

    static void up(int n, HttpRequest.BodyPublisher body) throws Exception {
        HttpResponse<String> r = client.send(to("/sum").POST(body).build(), BodyHandlers.ofString());
        want(r.statusCode(), 200);
        want(r.body().contains("\"sha256\":\"" + sum(n) + "\""), true);
    }

    public static void main(String[] args) throws Exception {
        base = args[0];
        version = args[1].equals("2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
        client = HttpClient.newHttpClient(); // asks for HTTP/2, in clear by an upgrade
        whole = Files.readAllBytes(Path.of(System.getenv("STREAM"), "3000000"));
        for (int n : new int[] {0, 1, 70_000, 3_000_000}) {
            check("down-" + n, () -> down(n, ""));
            check("up-" + n, () -> up(n, BodyPublishers.ofByteArray(whole, 0, n)));
        }
        check("down-chunked", () -> down(3_000_000, "?chunked"));
        check("up-unknown-length", () -> up(3_000_000, BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(whole))));
        check("expect", () -> {
            HttpResponse<String> r = client.send(to("/sum").expectContinue(true).POST(BodyPublishers.ofByteArray(whole)).build(), BodyHandlers.ofString());
            want(r.body().contains(sum(3_000_000)), true);
        });
        check("lines", () -> want(client.send(to("/drip").build(), BodyHandlers.ofLines()).body().count(), 5L));
        check("concurrent", () -> {
            List<CompletableFuture<Void>> all = new ArrayList<>();
            for (int i = 0; i < 100; i++) {
                int n = new int[] {100, 20_000, 100_000, 700_000}[i % 4];
                String sum = sum(n);
                all.add(client.sendAsync(to("/bytes/" + n).build(), BodyHandlers.ofByteArray()).thenAccept(r -> {
                    try {
                        want(sum(r.body()), sum);
                    } catch (Exception e) {
                        throw new RuntimeException(e);
                    }
                }));
            }
            for (CompletableFuture<Void> f : all) {
                f.get();
            }
        });
        check("cut", () -> {
            try {
                client.send(to("/cut").build(), BodyHandlers.ofByteArray());
            } catch (java.io.IOException e) {
                return;
            }
            throw new AssertionError("looked whole");
        });
        check("cancel", () -> {
            CompletableFuture<HttpResponse<byte[]>> f = client.sendAsync(to("/wait").build(), BodyHandlers.ofByteArray());
            Thread.sleep(100);
            f.cancel(true);
            down(1000, "");
        });
        check("refused", () -> {
            // This client takes no answer before it has sent all.
            HttpResponse<String> r = client.send(to("/secret/x").POST(BodyPublishers.ofByteArray(whole, 0, 200_000)).build(), BodyHandlers.ofString());
            want(r.statusCode(), 403);
            want(r.body().contains("\"reason\":\"rule_denied\""), true);
        });
        check("after-refusal", () -> down(1000, ""));
        System.exit(0);
    }
}
