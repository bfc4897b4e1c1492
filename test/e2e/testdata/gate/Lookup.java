import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.Hashtable;
import javax.naming.NameNotFoundException;
import javax.naming.directory.InitialDirContext;

/** Prints its pid, and for each name what InetAddress and what JNDI's own DNS client give. */
public class Lookup {
    public static void main(String[] args) throws Exception {
        System.out.println("pid " + ProcessHandle.current().pid());
        Hashtable<String, String> env = new Hashtable<>();
        env.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");
        env.put("java.naming.provider.url", "dns://" + args[0]);
        InitialDirContext dns = new InitialDirContext(env);
        for (int i = 1; i < args.length; i++) {
            StringBuilder line = new StringBuilder(args[i]);
            try {
                for (InetAddress a : InetAddress.getAllByName(args[i])) {
                    line.append(' ').append(a.getHostAddress());
                }
            } catch (UnknownHostException e) {
                line.append(" no such name");
            }
            System.out.println(line);
            line = new StringBuilder("jndi " + args[i] + " ");
            try {
                line.append(dns.getAttributes(args[i], new String[] {"A"}).get("A").get());
            } catch (NameNotFoundException e) {
                line.append("no such name");
            }
            System.out.println(line);
        }
    }
}
