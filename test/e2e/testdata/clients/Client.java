// Does METHOD URL BODY triples with java.net.http; one line of status, reason
// and sha256 for each, in JSON. Run as a single source file.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.MessageDigest;
import java.util.HexFormat;

public class Client {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i + 2 < args.length; i += 3) {
            try {
                HttpRequest.Builder b = HttpRequest.newBuilder(URI.create(args[i + 1]));
                if (args[i + 2].isEmpty()) {
                    b.method(args[i], HttpRequest.BodyPublishers.noBody());
                } else {
                    b.header("Content-Type", "application/json").method(args[i], HttpRequest.BodyPublishers.ofString(args[i + 2]));
                }
                HttpResponse<byte[]> r = client.send(b.build(), HttpResponse.BodyHandlers.ofByteArray());
                String text = new String(r.body(), 0, Math.min(r.body().length, 4096), "ISO-8859-1");
                System.out.printf("{\"status\":%d,\"reason\":\"%s\",\"sha256\":\"%s\",\"text\":%s}%n", r.statusCode(),
                        r.headers().firstValue("X-Sallyport-Reason").orElse(""),
                        HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(r.body())), quote(text));
            } catch (java.io.IOException e) {
                System.out.printf("{\"error\":%s}%n", quote(String.valueOf(e)));
            }
        }
    }

    private static String quote(String s) {
        StringBuilder b = new StringBuilder("\"");
        for (char c : s.toCharArray()) {
            if (c == '"' || c == '\\') {
                b.append('\\').append(c);
            } else if (c < 0x20 || c > 0x7e) {
                b.append(String.format("\\u%04x", (int) c));
            } else {
                b.append(c);
            }
        }
        return b.append('"').toString();
    }
}
